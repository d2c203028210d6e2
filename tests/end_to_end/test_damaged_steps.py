"""Steps that cannot be used: each is passed over and named, and the others are those of a sound suite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.tracking import CHEAP, broken_suite, folder_suite, refused, rtdyn, same_tables, truncate
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from rtdyn.store.run import done_steps, read_run


def cut_header(step: Path) -> None:
    (step / "model.safetensors").write_bytes(b"\x00\x01\x02")


def poison(step: Path) -> None:
    file = step / "model.safetensors"
    weights = load_file(file)
    weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][3, 5] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})


def drop_config(step: Path) -> None:
    (step / "config.json").unlink()


def other_family(step: Path) -> None:
    config = json.loads((step / "config.json").read_text())
    (step / "config.json").write_text(json.dumps({**config, "model_type": "falcon"}))


def drop_weights(step: Path) -> None:
    (step / "model.safetensors").unlink()


def drop_tensor(step: Path) -> None:
    file = step / "model.safetensors"
    weights = load_file(file)
    del weights["embed_out.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def other_shape(step: Path) -> None:
    config = json.loads((step / "config.json").read_text())
    (step / "config.json").write_text(json.dumps({**config, "hidden_size": 192}))


def narrower(step: Path) -> None:
    config = GPTNeoXConfig(
        vocab_size=2560, hidden_size=48, num_hidden_layers=1, num_attention_heads=2, intermediate_size=300,
        max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(step)


def swap_tokens(step: Path) -> None:
    tokenizer = json.loads((step.parent / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (step / "tokenizer.json").write_text(json.dumps(tokenizer))


def overflow(step: Path) -> None:
    file = step / "model.safetensors"
    weights = {k: v.float() for k, v in load_file(file).items()}
    weights["gpt_neox.layers.2.mlp.dense_h_to_4h.bias"][:] = 3e38
    weights["gpt_neox.layers.2.mlp.dense_4h_to_h.weight"][:] = 1e38
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ("truncated", "download it again")),
        (cut_header, ("truncated or not a safetensors file",)),
        (poison, ("NaN or infinite", "dense_h_to_4h")),
        (other_family, ("'falcon'", "not supported", "gpt_neox")),
        (drop_tensor, ("do not fit their config.json",)),
        (other_shape, ("another shape", "hidden_size 192 instead of 96")),
        (narrower, ("another shape", "intermediate_size 300 instead of 512")),
        (swap_tokens, ("another tokenizer",)),
        (overflow, ("step 0 in ", "step0: ", "overflow", "leave it out of --steps")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    damage, words: tuple[str, ...], tiny_folder: Path, tmp_path: Path
) -> None:
    suite = broken_suite(tiny_folder, tmp_path)
    damage(suite / "step0")
    out = tmp_path / "run"
    result = rtdyn("track", "--model", suite, "--out", out, *CHEAP)
    refused(result, 3, "1 of 2 steps could not be analysed: step 0: ", *words)
    assert "step 0 is passed over: " in result.stderr
    assert list(done_steps(read_run(out))) == [4000] and not list(out.rglob("*.aside"))


@pytest.fixture(scope="module")
def sound(takes_long: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of a suite in a folder."""
    folder = tmp_path_factory.mktemp("sound")
    (folder / "suite").mkdir()
    result = rtdyn(*folder_suite(tiny_folder, folder / "suite"), "--out", folder / "run")
    assert result.exit_code == 0, result.stderr
    return folder / "run"


# what the audit sees, a cut file and a config that is none, is passed over before the run with `skip`
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("mark", ("3 of 4 steps could not be analysed: step 0: ", "; step 1000: ", "; step 4000: ")),
        ("skip", ("1 of 2 steps could not be analysed: step 1000: ",)),
    ],
)
def test_steps_beside_bad_ones_are_those_of_a_sound_suite_and_mended_ones_are_done_later(
    mode: str, said: tuple[str, ...], tiny_folder: Path, tmp_path: Path, sound: Path
) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    arguments = (*folder_suite(tiny_folder, suite), "--out", tmp_path / "run", "--on-defect", mode)
    truncate(suite / "step0")
    poison(suite / "step1000")
    (suite / "step4000" / "config.json").write_text("{")  # of the step that text and settings are read by
    result = rtdyn(*arguments)
    refused(result, 3, *said)
    refused(rtdyn(*arguments[:-1], "fail", "--out", tmp_path / "none"), 3, "step 0: ", "is truncated")
    assert "1 step stored" in result.stdout and not (tmp_path / "none").exists()
    same_tables(sound, tmp_path / "run", (64,))
    for name in ("step0", "step1000", "step4000"):
        shutil.copytree(tiny_folder / name, suite / name, dirs_exist_ok=True)
    result = rtdyn(*arguments)
    assert result.exit_code == 0 and "1 of 4 steps are stored already" in result.stderr, result.stderr
    same_tables(sound, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "words"), [(drop_config, "no config.json"), (drop_weights, "no weights")])
def test_a_checkpoint_that_lacks_files_is_passed_over(damage, words: str, tiny_folder: Path, tmp_path: Path) -> None:
    suite = broken_suite(tiny_folder, tmp_path)
    for step in ("step0", "step4000"):
        damage(suite / step)
    arguments = ("track", "--model", suite, "--out", tmp_path / "run", *CHEAP)
    refused(rtdyn(*arguments), 3, "no step asked for of suite is sound")
    refused(rtdyn(*arguments, "--on-defect", "fail"), 3, f"step 0: it holds {words}")
    assert not (tmp_path / "run").exists()
