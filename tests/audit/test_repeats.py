"""Steps that hold nearly the same weights, told by their fingerprints from those that training moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from loopback.place import TINY
from safetensors.torch import load_file, save_file

from rtdyn.audit.fingerprint import Fingerprint, fingerprint_of
from rtdyn.audit.repeats import nearly_identical
from rtdyn.audit.survey import audit_suite
from rtdyn.suites.find import find_suite


def moved(matrix: torch.Tensor, share: float, rng: torch.Generator) -> torch.Tensor:
    """The matrix with a share of its float16 numbers moved to a neighbour."""
    chosen = torch.rand(matrix.shape, generator=rng) < share
    return torch.where(chosen, torch.nextafter(matrix, torch.full_like(matrix, 9.0)), matrix)


def fingerprints(share: float, seed: int, matrices: int = 4, equal_units: bool = False) -> dict[int, Fingerprint]:
    """Of weights before and after. equal_units: all numbers move by one amount, which cancels most often."""
    rng = torch.Generator().manual_seed(seed)
    shape = (200, 300)
    before = {f"m{i}": (0.02 * torch.randn(shape, generator=rng)).half() for i in range(matrices)}
    if equal_units:
        before = {name: (1 + torch.rand(shape, generator=rng) / 2).half() for name in before}
    after = {name: moved(matrix, share, rng) for name, matrix in before.items()}
    return {0: fingerprint_of(before), 1: fingerprint_of(after)}


@pytest.mark.parametrize("share", [0.0001, 0.0005, 0.001])
@pytest.mark.parametrize("equal_units", [False, True])
def test_a_small_share_of_moved_numbers_is_told(share: float, equal_units: bool) -> None:
    said = "nearly identical to step 0: under 1 % of the numbers looked at differ"
    assert [nearly_identical(fingerprints(share, s, equal_units=equal_units)) for s in range(5)] == [{1: said}] * 5


@pytest.mark.parametrize("share", [0.0, 0.01, 0.012, 0.05, 1.0])
@pytest.mark.parametrize("equal_units", [False, True])
def test_equal_weights_and_those_of_which_one_per_cent_moved_are_not_told(share: float, equal_units: bool) -> None:
    told = [nearly_identical(fingerprints(share, s, matrices=1, equal_units=equal_units)) for s in range(10)]
    assert told == [{}] * 10


def test_one_matrix_that_moved_is_enough_to_be_another() -> None:
    alike, other = fingerprints(0.001, 0), fingerprints(1.0, 1)
    mixed = {step: {**alike[step], "last": other[step]["m0"]} for step in alike}
    assert nearly_identical(mixed) == {}


def test_an_audit_says_it_and_leaves_the_step_in(tmp_path: Path) -> None:
    for step in (0, 512, 4000):
        shutil.copytree(TINY / f"step{step}", tmp_path / "suite" / f"step{step}")
    shutil.copytree(TINY / "step0", tmp_path / "suite" / "step1")
    file = tmp_path / "suite" / "step1" / "model.safetensors"
    rng = torch.Generator().manual_seed(0)
    save_file({n: moved(m.half(), 0.001, rng) for n, m in load_file(file).items()}, file, {"format": "pt"})
    audited = {v.step: v for v in audit_suite(find_suite(str(tmp_path / "suite"), {})).steps}
    assert {v.verdict for v in audited.values()} == {"sound"}
    assert [note.split(":")[0] for note in audited[1].notes] == ["nearly identical to step 0"]
    assert audited[512].notes == audited[4000].notes == ()
