"""The final MLP's tensors from files: nothing is executed, nothing damaged passes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rtdyn.checkpoints.tensors import read_final_mlp
from rtdyn.errors import InputError

INPUT = "gpt_neox.layers.2.mlp.dense_h_to_4h.weight"


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


def test_a_pickle_that_would_run_code_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder, marker = tmp_path / "step", tmp_path / "marker"
    folder.mkdir()
    shutil.copy(tiny_folder / "step0" / "config.json", folder)
    for new in (True, False):
        torch.save({INPUT: Malicious(marker)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        with pytest.raises(InputError, match="cannot be loaded"):
            read_final_mlp(folder)
    assert not marker.exists()


def test_a_pickle_of_anything_else_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_folder / "step0" / "config.json", tmp_path)
    for content in ([1, 2], {INPUT: "text", INPUT.replace("h_to_4h", "4h_to_h"): 3}):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(InputError):
            read_final_mlp(tmp_path)


def test_an_old_bin_gives_the_tensors_of_safetensors(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_folder / "step512" / "config.json", tmp_path)
    weights = load_file(tiny_folder / "step512" / "model.safetensors")
    _, inputs, output = read_final_mlp(tiny_folder / "step512")
    for new in (True, False):
        torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        _, ours, out = read_final_mlp(tmp_path)
        assert torch.equal(ours["in"], inputs["in"]) and torch.equal(out, output)
        assert out.dtype == torch.float32 and out.shape == (512, 96)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.fill_(float("nan")), "NaN or infinite"),
        (lambda t: t[:, :7].contiguous(), "matrices differ"),
        (lambda t: t[0].contiguous(), "is no matrix of numbers"),
        (lambda t: t.to(torch.int32), "is no matrix of numbers"),
    ],
    ids=["nan", "narrow", "vector", "whole numbers"],
)
def test_tensors_that_cannot_be_the_mlps_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], words: str, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_folder / "step0" / "config.json", tmp_path)
    weights = load_file(tiny_folder / "step0" / "model.safetensors")
    weights[INPUT] = change(weights[INPUT])
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=words):
        read_final_mlp(tmp_path)
