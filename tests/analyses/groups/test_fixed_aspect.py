"""Exponents of square submatrices: by numpy's SVDs, of noise and of planted tails in matrices of unlike shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtdyn.analyses.groups import fixed_aspect as module
from rtdyn.analyses.groups.fixed_aspect import (
    HILL_RULES,
    fixed_aspect_hill,
    fixed_aspect_weightwatcher,
    pooled_eigenvalues,
    square_submatrices,
)
from rtdyn.analyses.groups.heavytail import HALF, TENTH, hill_of_spectra, spectra, standard_rows
from rtdyn.analyses.groups.weightwatcher import weightwatcher_metrics
from rtdyn.undefined import Undefined

SHAPES = ((128, 128), (512, 128), (128, 512), (64, 512))


def hill_by_numpy(rows: np.ndarray, starts: list[tuple[int, int]], side: int, part: int) -> float:
    """From the definition: every submatrix by its corner, all eigenvalues together."""
    scaled = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    parts = [scaled[a : a + side, b : b + side] for a, b in starts]
    values = np.sort(np.concatenate([np.linalg.svd(p, compute_uv=False) ** 2 for p in parts]))[::-1]
    k = len(values) // part
    return 1 / float(np.log(values[:k] / values[k]).mean())


@pytest.mark.parametrize(
    ("shape", "starts"),
    [((20, 70), [(0, 0), (0, 25), (0, 50)]), ((50, 20), [(0, 0), (30, 0)]), ((20, 39), [(0, 0)]), ((16, 16), [(0, 0)])],
)
def test_it_is_hills_alpha_of_the_eigenvalues_of_all_submatrices(
    shape: tuple[int, int], starts: list[tuple[int, int]]
) -> None:
    rows = np.random.default_rng(0).standard_t(3, shape)
    found, side = fixed_aspect_hill(torch.from_numpy(rows)), min(shape)
    for rule, part in ((TENTH, 10), (HALF, 2)):
        if side * len(starts) // part >= 5:
            assert found[rule] == pytest.approx(hill_by_numpy(rows, starts, side, part))
        else:
            assert isinstance(found[rule], Undefined)
    corners = [tuple(np.argwhere(rows == float(p[0, 0]))[0]) for p in square_submatrices(torch.from_numpy(rows))]
    assert corners == starts
    pooled = pooled_eigenvalues(torch.from_numpy(rows))
    assert not isinstance(pooled, Undefined) and len(pooled) == side * len(starts)
    dead = np.insert(rows, 3, 2.5, axis=0)
    if shape[0] > shape[1]:
        assert fixed_aspect_hill(torch.from_numpy(dead)) == found


def test_large_matrices_are_cut_into_squares_of_the_largest_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_SIDE", 16)
    parts = list(square_submatrices(torch.arange(40 * 33).reshape(40, 33)))
    assert [int(p[0, 0]) for p in parts] == [0, 17, 24 * 33, 24 * 33 + 17] and all(p.shape == (16, 16) for p in parts)


@pytest.mark.slow
def test_noise_has_one_exponent_whatever_the_shape_and_a_planted_tail_a_lower_one() -> None:
    """Plain exponents of the same noise differ fourfold; and weightwatcher's agree in what is heavier."""
    rng = np.random.default_rng(0)
    noise, heavy, plain = {}, {}, []
    for shape in SHAPES:
        gaussian, tailed = torch.from_numpy(rng.standard_normal(shape)), torch.from_numpy(rng.standard_t(2.0, shape))
        noise[shape], heavy[shape] = fixed_aspect_hill(gaussian), fixed_aspect_hill(tailed)
        whole = spectra(standard_rows(gaussian), np.arange(shape[0])[None])
        plain.append(float(hill_of_spectra(whole, TENTH).alpha[0]))
        lighter, heavier = (fixed_aspect_weightwatcher(m) for m in (gaussian, tailed))
        assert not isinstance(lighter, Undefined) and not isinstance(heavier, Undefined) and heavier < lighter
    assert max(plain) > 3 * min(plain)
    for rule in HILL_RULES:
        values = [v[rule] for v in noise.values()]
        assert not any(isinstance(v, Undefined) for v in values)
        numbers = np.array(values, dtype=np.float64)
        assert numbers.max() < 1.15 * numbers.min(), rule
    for shape in ((128, 512), (64, 512)):
        light, planted = noise[shape][TENTH], heavy[shape][TENTH]
        assert isinstance(light, float) and isinstance(planted, float) and planted < 0.9 * light


@pytest.mark.slow
def test_a_square_matrix_has_weightwatchers_plain_alpha() -> None:
    matrix = torch.from_numpy(np.random.default_rng(0).standard_t(3, (60, 60)))
    assert fixed_aspect_weightwatcher(matrix) == pytest.approx(weightwatcher_metrics(matrix)["alpha"])


def test_what_has_no_exponent_says_why() -> None:
    narrow = Undefined("the shorter side of the matrix is 15, under 16")
    assert fixed_aspect_hill(torch.randn(15, 99)) == dict.fromkeys(HILL_RULES, narrow)
    assert fixed_aspect_weightwatcher(torch.randn(99, 15)) == narrow
    assert fixed_aspect_weightwatcher(torch.zeros(20, 20)) == Undefined("the matrix is zero")
    torn = torch.randn(20, 20)
    torn[3, 3] = torch.nan
    assert fixed_aspect_weightwatcher(torn) == Undefined("the matrix holds values that are not finite")
    rows = torch.randn(20, 50)
    rows[:6] = 1.0
    assert fixed_aspect_hill(rows)[HALF] == Undefined("the shorter side of the matrix is 14, under 16")
