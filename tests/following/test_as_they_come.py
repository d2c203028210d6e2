"""Steps of a followed run that hold the weights of another, or nearly: told as they come, and kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from following.test_folder import SMALL, folder
from safetensors.numpy import load_file, save_file
from support import trainer

import rtdyn

__all__ = ["folder"]
pytestmark = pytest.mark.slow


def change_one_number(checkpoint: Path) -> None:
    shard = next(f for f in sorted(checkpoint.glob("*.safetensors")) if "gpt_neox.embed_in.weight" in load_file(f))
    tensors = load_file(shard)
    tensors["gpt_neox.embed_in.weight"][7, 3] += 1
    save_file(tensors, shard, {"format": "pt"})


def test_repeats_are_told_as_they_come_and_stored(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    random_neox: Callable[..., transformers.GPTNeoXForCausalLM],
) -> None:
    for step in (10, 20):
        trainer.save(tmp_path / "model", folder / f"checkpoint-{step}", step, 0)
    shutil.copytree(folder / "checkpoint-20", folder / "checkpoint-30")
    shutil.copytree(folder / "checkpoint-20", folder / "checkpoint-40")
    change_one_number(folder / "checkpoint-40")
    trainer.save(tmp_path / "model", folder / "checkpoint-50", 50, 0)
    follow = {"out": tmp_path / "run", "follow": True, "poll": 0.01, **SMALL}
    run = rtdyn.track(folder, until=50, **follow)
    said = capsys.readouterr().out
    repeat, nearly = "step 30 holds the same weights as step 20", "step 40 is nearly identical to step 30: under 1 % of"
    order = [re.search(words, said) for words in (r"\] step 30: ", repeat, r"\] step 40: ", nearly, r"\] step 50: ")]
    at = [found.start() for found in order if found is not None]
    assert len(at) == 5 and sorted(at[1::2]) == at[1::2] and at[1] < at[2] and at[3] < at[4]
    assert said.count("audit: step") == 2
    assert run.manifest.left_out == {30: "it holds the same weights as step 20"}
    audit = run.manifest.audit
    assert audit is not None and [words[:60] for words in audit.findings] == [
        "made as the steps came, by the fingerprints of their weights"[:60],
        "step 30: it holds the weights of step 20, in another file"[:60],
        "step 40: nearly identical to step 30: under 1 % of the numbers looked at differ"[:60],
    ]
    assert audit.findings[0].endswith("5 were compared")
    # the same command goes on, and knows what came before
    shutil.copytree(folder / "checkpoint-50", folder / "checkpoint-60")
    again = rtdyn.track(folder, until=60, **follow)
    assert capsys.readouterr().out.count("audit: step 60 holds the same weights as step 50") == 1
    assert again.manifest.left_out == {50: "it holds the same weights as step 60", **run.manifest.left_out}
    assert again.manifest.audit is not None and len(again.manifest.audit.findings) == 4
