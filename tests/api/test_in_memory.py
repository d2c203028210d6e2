"""A model in memory: the tables of a run over its checkpoint, an owner's model left as it is, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from polars.testing import assert_frame_equal

import rtdyn
from rtdyn.capture.model_copy import model_copy
from rtdyn.errors import InputError, ParityError, UsageError
from rtdyn.model.families import FAMILIES
from rtdyn.store.schema import TABLES
from rtdyn.text.king_james import held_out_chapters

STEP = 512
SMALL: dict[str, Any] = {
    "tokens": 2000,
    "window": 32,
    "min_targets": 10,
    "rare": ["0.3:0.95"],
    "positions_per_rare": 1,
    "tolerance": 0.001,
    "seed": 3,
}
ANALYSES = ("ablation", "dimensionality", "routing")
"""Those that take least, with and without attention."""


def loaded(folder: Path, **settings: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder / f"step{STEP}"), **settings)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(tiny_folder))


@pytest.fixture(scope="module")
def run(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("api") / "run"
    return rtdyn.track("tiny", steps=[STEP], out=out, wandb="disabled", analyses=ANALYSES, **SMALL)


def test_track_opens_what_it_made_and_goes_on_with_it(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.steps == (STEP,) and run.is_recorded
    assert run.manifest.command.startswith(f"rtdyn track --model=tiny --steps={STEP}")
    again = rtdyn.track("tiny", steps=STEP, out=str(run.path), wandb="disabled", analyses=ANALYSES, **SMALL)
    assert again.manifest.checkpoints == run.manifest.checkpoints and again.steps == run.steps
    assert "1 of 1 steps are stored already" in capsys.readouterr().out


def test_tables_equal_those_of_a_run_and_the_model_stays_as_it_is(run: Any, tiny_folder: Path, tokenizer: Any) -> None:
    model = loaded(tiny_folder, dtype=torch.float16).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    tables = rtdyn.analyse(
        model,
        tokenizer,
        held_out_chapters(),
        frequencies=tiny_folder / "token_counts.npy",
        step=STEP,
        tokens_seen=run.metrics.collect()["tokens_seen"][0],
        analyses=ANALYSES,
        **SMALL,
    )
    for table in TABLES:
        assert_frame_equal(getattr(tables, table), getattr(run, table).collect(), check_exact=True)
    assert model.training and model.dtype == torch.float16 and model.config._attn_implementation == "sdpa"
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_influence_is_that_of_the_neurons_table(run: Any, tiny_folder: Path, tokenizer: Any) -> None:
    counts = np.load(tiny_folder / "token_counts.npy")
    found = rtdyn.influence(loaded(tiny_folder), tokenizer, held_out_chapters(), frequencies=counts, **SMALL)
    neurons = run.neurons.collect()
    assert np.asarray(found).shape == (len(neurons),) == found.error_bound.shape
    for field, column in (
        ("values", "mean_abs_rare"),
        ("low", "ci_low_abs_rare"),
        ("high", "ci_high_abs_rare"),
        ("error_bound", "error_bound_rare"),
        ("mean", "delta_rare"),
        ("mean_se", "se_rare"),
    ):
        np.testing.assert_array_equal(getattr(found, field), neurons[column].fill_null(np.nan).to_numpy())
    assert (found.low <= found.values).all() and (found.values <= found.high).all()
    row = run.metrics.filter(pl.col("metric") == "influence_mean", pl.col("token_class") == "rare").collect()
    assert (found.positions, found.clusters) == (row["n"].item(), row["clusters"].item())
    assert f"neuron {found.values.argmax()}>" in repr(found)
    with pytest.raises(UsageError, match="no class 'mid'; there are rare, common"):
        rtdyn.influence(
            loaded(tiny_folder), tokenizer, held_out_chapters(), frequencies=counts, token_class="mid", **SMALL
        )


@pytest.mark.slow
def test_a_model_that_rtdyn_misreads_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tokenizer: Any
) -> None:
    true = FAMILIES["gpt_neox"]

    def misread(model: Any) -> Any:
        parts = true(model)
        return replace(parts, readout=replace(parts.readout, epsilon=0.5))

    monkeypatch.setitem(FAMILIES, "gpt_neox", misread)  # type: ignore[arg-type]  # a Mapping to readers only
    with pytest.raises(ParityError, match="differ from transformers' own"):
        rtdyn.influence(loaded(tiny_folder), tokenizer, held_out_chapters(), **SMALL)


@pytest.mark.slow
def test_text_and_counts_that_cannot_be_used_are_refused(tiny_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    model = loaded(tiny_folder)
    for text, said in (("  ", "the text holds no text"), ("In the beginning.", "shorter than one window")):
        with pytest.raises(InputError, match=said):
            rtdyn.influence(model, tokenizer, text, frequencies=tiny_folder / "token_counts.npy")
    with pytest.raises(InputError, match="is not there"):
        rtdyn.analyse(model, tokenizer, tmp_path / "none.txt")
    with pytest.raises(InputError, match="frequencies are all equal"):
        rtdyn.analyse(model, tokenizer, held_out_chapters(), frequencies=np.ones(2560))
    with pytest.raises(InputError, match="heavytail alone reads no text"):
        rtdyn.analyse(model, tokenizer, held_out_chapters(), analyses="heavytail")


def test_models_that_are_not_transformers_own_are_refused(
    random_neox: Callable[..., transformers.GPTNeoXForCausalLM],
) -> None:
    plain = random_neox()
    assert model_copy(plain, "cpu").gpt_neox.final_layer_norm.weight.equal(plain.gpt_neox.final_layer_norm.weight)

    class Own(transformers.GPTNeoXForCausalLM):
        pass

    wrapped = torch.nn.DataParallel(plain)
    for model, said in (
        (wrapped, "is a DataParallel; give transformers' own model"),
        (Own(plain.config), "is a Own and not transformers' GPTNeoXForCausalLM"),
        (transformers.FalconForCausalLM(transformers.FalconConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1,
         num_attention_heads=2)), "'falcon', which is not supported"),
        (transformers.OPTForCausalLM(transformers.OPTConfig(vocab_size=61, hidden_size=16, ffn_dim=16,
         num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8)), "the model does not end in a norm"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            model_copy(model, "cpu")
    plain.gpt_neox.layers[0].register_parameter("lora_A", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(InputError, match=r"unexpected keys .*lora_A"):
        model_copy(plain, "cpu")
    broken = random_neox()
    broken.get_output_embeddings().weight[3, 3] = torch.nan
    with pytest.raises(InputError, match=r"NaN or infinite values \(in .*\)"):
        model_copy(broken, "cpu")
