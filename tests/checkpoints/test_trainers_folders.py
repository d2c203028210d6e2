"""Folders as trainers write them: transformers' own Trainer, torch's distributed saving, DeepSpeed, PEFT."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner
from loopback.place import TINY, TOKENIZER, workplace
from safetensors.torch import load_file
from support.hang import HANG
from support.processes import run_python

from rtdyn.checkpoints.checkpoint import Checkpoint, load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.cli import main
from rtdyn.errors import InputError
from rtdyn.store.run import done_steps, read_run, read_table
from rtdyn.suites.find import find_suite

STEPS = (2, 4, 6)
TRAINED_TOKENS = 2 * 2 * 16
"""Two updates of two rows of 16 tokens."""


@pytest.fixture(scope="module")
def trained(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a short training, with all that the Trainer writes: three checkpoints and the last model."""
    out = tmp_path_factory.mktemp("trained") / "output"
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY / "step0", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(5, 500, (12, 16)).tolist()]
    settings = transformers.TrainingArguments(
        output_dir=str(out),
        max_steps=STEPS[-1],
        save_steps=2,
        per_device_train_batch_size=2,
        include_num_input_tokens_seen="all",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    collate = transformers.default_data_collator
    trainer = transformers.Trainer(
        model=model, args=settings, train_dataset=rows, processing_class=tokenizer, data_collator=collate
    )
    trainer.train()
    trainer.save_model()
    return out


@pytest.fixture
def one(trained: Path, tmp_path: Path) -> Path:
    """A folder with one checkpoint of the Trainer, to be changed."""
    shutil.copytree(trained / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    return tmp_path / "run" / "checkpoint-4"


def assert_loaded(checkpoint: Checkpoint, stored: dict[str, torch.Tensor]) -> None:
    """The model holds these numbers; transformers has another name for the unembedding than old files."""
    loaded = load_model(checkpoint, "cpu").state_dict()
    for name, numbers in stored.items():
        assert torch.equal(loaded[name.replace("embed_out", "lm_head")], numbers), name


def test_a_trainers_output_is_a_suite_with_its_tokens(trained: Path) -> None:
    suite = find_suite(str(trained), {})
    assert suite.steps == STEPS
    assert [suite.tokens_seen(step) for step in STEPS] == [TRAINED_TOKENS, 2 * TRAINED_TOKENS, 3 * TRAINED_TOKENS]
    assert "the model beside them is left out" in suite.note
    extras = {"optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin"}
    assert extras <= {file.name for file in (trained / "checkpoint-2").iterdir()}
    for step in STEPS:
        checkpoint = fetch_local(suite, step)
        assert set(checkpoint.digests) == {"model.safetensors"}
        assert_loaded(checkpoint, load_file(trained / f"checkpoint-{step}" / "model.safetensors"))


def test_a_trainers_output_is_tracked_and_a_single_checkpoint_too(trained: Path, tmp_path: Path) -> None:
    place = workplace(tmp_path, "http://127.0.0.1:9")
    several = ["track", "--model", str(trained), *place.settings(tmp_path / "several")]
    single = ["track", "--model", str(trained / "checkpoint-4"), *place.settings(tmp_path / "single")]
    for arguments in (several, single):
        ended = CliRunner().invoke(main, arguments)
        assert ended.exit_code == 0, ended.output
    assert set(done_steps(read_run(tmp_path / "several"))) == set(STEPS)
    assert set(done_steps(read_run(tmp_path / "single"))) == {4}
    tables = [read_table(read_run(tmp_path / name), "neurons") for name in ("several", "single")]
    assert tables[0].filter(tables[0]["step"] == 4).equals(tables[1])
    claims = CliRunner().invoke(main, ["claims", str(tmp_path / "single")])
    assert claims.exit_code == 3 and "3" in claims.output


def test_a_folder_with_bin_weights_alone_is_read(one: Path) -> None:
    weights = load_file(one / "model.safetensors")
    (one / "model.safetensors").unlink()
    torch.save(weights, one / "pytorch_model.bin")
    checkpoint = fetch_local(find_suite(str(one.parent), {}), 4)
    assert set(checkpoint.digests) == {"pytorch_model.bin"}
    assert_loaded(checkpoint, weights)


def test_fsdp_shards_are_refused_and_the_command_that_is_named_puts_them_together(one: Path) -> None:
    weights = load_file(one / "model.safetensors")
    (one / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="single process"):
        torch.distributed.checkpoint.save({"model": weights}, checkpoint_id=one / "pytorch_model_fsdp_0", no_dist=True)
    suite = find_suite(str(one.parent), {})
    with pytest.raises(InputError, match=r"FSDP; run `accelerate merge-weights pytorch_model_fsdp_0 \.` in it"):
        fetch_local(suite, 4)
    command = ["-m", "accelerate.commands.accelerate_cli", "merge-weights", "pytorch_model_fsdp_0", "."]
    done = run_python(command, cwd=one, timeout=HANG)
    assert done.returncode == 0, done.stderr
    assert_loaded(fetch_local(suite, 4), weights)


def test_the_command_named_for_torchs_distributed_form_gives_the_weights(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(one / "model.safetensors")
    (one / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="single process"):
        torch.distributed.checkpoint.save({"model": weights}, checkpoint_id=one, no_dist=True)
    with pytest.raises(InputError, match=r"torch's distributed form; run `python -m .* in it, load") as refusal:
        fetch_local(find_suite(str(one.parent), {}), 4)
    module, *arguments = re.findall("`python -m (.*?)`", str(refusal.value))[0].split()
    monkeypatch.chdir(one)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    found = torch.load(one / "weights.pt", weights_only=True)["model"]
    assert found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)


UNMERGED = {
    "deepspeed": (
        ["latest", "zero_to_fp32.py", "global_step4/"],
        r"shards of DeepSpeed's ZeRO; run `python zero_to_fp32",
    ),
    "distributed": ([".metadata", "__0_0.distcp"], "torch's distributed form; run `python -m torch.distributed"),
    "deepspeed itself": (
        ["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        r"shards of DeepSpeed's ZeRO; run `python zero_to_fp32.py . OUT --tag NAME` in the folder above",
    ),
    "gpt-neox": (
        ["mp_rank_00_model_states.pt", "layer_00-model_00-model_states.pt", "configs/"],
        r"a DeepSpeed pipeline; run `python tools/ckpts/convert_neox_to_hf.py --input_dir FOLDER",
    ),
    "megatron": (
        ["mp_rank_00/", "mp_rank_01_003/"],
        r"Megatron's shards; let Megatron-LM .* then run `python examples/conversion/convert_checkpoints.py export",
    ),
    "megatron distributed": (
        ["common.pt", "metadata.json", ".metadata", "__0_0.distcp"],
        r"Megatron's distributed form; run `python examples/conversion/convert_checkpoints.py export",
    ),
    "adapter": (["adapter_config.json", "adapter_model.safetensors"], "PEFT adapter .* merge it into its base first"),
}


@pytest.mark.parametrize("kind", UNMERGED)
@pytest.mark.parametrize("with_config", [True, False])
def test_weights_that_are_no_model_are_refused_with_what_to_do(tmp_path: Path, kind: str, with_config: bool) -> None:
    names, words = UNMERGED[kind]
    folder = tmp_path / "run" / "checkpoint-4"
    folder.mkdir(parents=True)
    if with_config:
        shutil.copy(TINY / "step0" / "config.json", folder)
    for name in names:
        (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("{}")
    with pytest.raises(InputError, match=words):
        fetch_local(find_suite(str(folder.parent), {}), 4)
    for command in (["audit", "--json"], ["track", "--wandb", "disabled", "--out", str(tmp_path / "out")]):
        ended = CliRunner().invoke(main, [*command, "--model", str(folder.parent)])
        assert words.split(";")[0].split(" .*")[0] in ended.output, ended.output
    assert ended.exit_code == 3 and not (tmp_path / "out").exists()


def test_an_adapter_is_refused_beside_whole_weights_too(tmp_path: Path) -> None:
    """transformers would load whatever base model it names in their place."""
    folder = tmp_path / "run" / "step0"
    shutil.copytree(TINY / "step0", folder)
    for name in TOKENIZER:
        shutil.copy(TINY / name, folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    with pytest.raises(InputError, match="PEFT adapter"):
        fetch_local(find_suite(str(folder.parent), {}), 0)
