"""The bundled suite is what its card says, and it has learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rtdyn.capture.forward_pass import Capture
from rtdyn.checkpoints.checkpoint import load_model, read_config, sha256_of
from rtdyn.checkpoints.local import fetch_local
from rtdyn.model.families import anatomy
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.king_james import held_out_chapters


@pytest.fixture(scope="module")
def card(tiny_folder: Path) -> dict:
    return json.loads((tiny_folder / "card.json").read_text())


def test_it_holds_every_scheduled_step_and_fits(tiny: SuiteSpec, tiny_folder: Path, card: dict) -> None:
    assert tiny.steps == tuple(row["step"] for row in card["losses"])
    assert len(tiny.steps) >= 16
    assert sum(f.stat().st_size for f in tiny_folder.rglob("*") if f.is_file()) <= 32 * 2**20
    digests = {sha256_of(tiny_folder / f"step{s}" / "model.safetensors") for s in tiny.steps}
    assert len(digests) == len(tiny.steps)
    assert tiny.tokens_per_step == card["training"]["tokens_per_step"]


def test_the_architecture_is_pythias_in_small(tiny: SuiteSpec, tiny_folder: Path) -> None:
    config = read_config(tiny_folder / "step4000")
    assert config["model_type"] == "gpt_neox" and config["use_parallel_residual"]
    assert config["intermediate_size"] >= 512 and not config["tie_word_embeddings"]
    model = load_model(fetch_local(tiny, 4000), "cpu")
    parts = anatomy(model)
    assert parts.output_rows.shape == (512, 96) and parts.readout.unembedding.shape == (2560, 96)
    assert parts.readout.shift.abs().max() > 1e-3 and (parts.readout.gain - 1).abs().max() > 1e-3


def test_counts_are_those_of_the_training_tokens(tiny_folder: Path, card: dict) -> None:
    counts = np.load(tiny_folder / "token_counts.npy")
    assert len(counts) == card["model"]["token_types"] >= 2048
    assert counts.sum() == card["losses"][-1]["tokens"]


def test_the_evaluation_text_is_the_held_out_one(card: dict) -> None:
    assert hashlib.sha256("\x00".join(held_out_chapters()).encode()).hexdigest() == card["held_out"]["sha256"]


def test_it_has_learned(card: dict, captured: Callable[[int], Capture]) -> None:
    losses = {row["step"]: row["held_out_loss"] for row in card["losses"]}
    assert losses[4000] < card["held_out"]["unigram_entropy_nats"] - 2
    assert losses[4000] < losses[512] - 0.5 < losses[64] - 1 < losses[0] - 2
    for step in (1, 512, 4000):
        assert float(captured(step).loss.mean()) == pytest.approx(losses[step], abs=0.2)
