"""Differences between the classes: closed forms, planted cases and the null."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from rtdyn.analyses.routing.differences import class_difference, gini


def test_gini_of_known_distributions() -> None:
    k = 8
    rows = np.zeros((4, 12), dtype=np.float32)
    rows[0, :k] = 1 / k
    rows[1, 3] = 1.0
    rows[2, :k] = np.arange(1, k + 1)
    found = gini(torch.from_numpy(rows), torch.full((4,), k))
    np.testing.assert_allclose(found[:3], [0.0, (k - 1) / k, (k - 1) / (3 * k)], atol=1e-7)
    assert found[3].isnan()
    assert gini(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) == 0


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(1e-3, 1.0)), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_gini_is_half_the_relative_mean_difference(x: np.ndarray, padding: int, seed: int) -> None:
    expected = np.abs(x[:, None] - x).mean() / (2 * x.mean())
    shuffled = np.random.default_rng(seed).permutation(x) * (1 + seed)
    for values in (x, shuffled):
        padded = torch.from_numpy(np.pad(values, (0, padding)))
        np.testing.assert_allclose(gini(padded, torch.tensor(len(x))), expected, atol=1e-12)


def clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """No difference between classes, but windows have values of their own, and half of them are all rare."""
    windows = np.repeat(np.arange(24), 4)
    rare = rng.permutation(24) < 12
    values = rng.normal(size=24)[windows] + 0.5 * rng.normal(size=96)
    return values[:, None], rare[windows], np.tile([0, 0, 1, 1], 24), windows


def test_p_values_are_uniform_where_classes_do_not_differ_and_windows_do() -> None:
    rng, draws = np.random.default_rng(0), 300
    p, naive, covered = [], [], []
    for _ in range(draws):
        values, rare, strata, windows = clustered(rng)
        one = class_difference(values, rare, strata, windows, rng, permutations=199)
        p.append(one.p_value[0])
        covered.append(abs(one.difference[0]) < 1.96 * one.se[0])
        naive.append(class_difference(values, rare, strata, np.arange(96), rng, 199, blocks=96).p_value[0])
    assert stats.kstest(p, "uniform").statistic < 1.95 / np.sqrt(draws)  # the critical value at 0.001
    assert 0.87 < np.mean(covered) < 0.99
    assert np.mean(np.array(naive) < 0.05) > 0.15  # the dependence matters: without blocks the test is wrong


def test_a_planted_difference_is_found_with_its_size() -> None:
    rng = np.random.default_rng(1)
    values, _, strata, windows = clustered(rng)
    balanced = np.tile([True, False], 48)
    shifted = np.hstack([values, values + 0.8 * balanced[:, None]])
    found = class_difference(shifted, balanced, strata, windows, rng)
    assert found.p_value[0] > 0.05 and found.p_value[1] == 0.001
    assert abs(found.difference[1] - found.difference[0] - 0.8) < 1e-12
    assert abs(found.difference[1] - 0.8) < 3 * found.se[1] and found.n == 48 and found.blocks == 24


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_differences_turn_with_the_labels_and_ignore_the_scale(seed: int, factor: float, shift: float) -> None:
    values, rare, strata, windows = clustered(np.random.default_rng(seed))
    measure = partial(class_difference, strata=strata, windows=windows, permutations=99, blocks=10)
    one = measure(values, rare, rng=np.random.default_rng(seed))
    turned = measure(values, ~rare, rng=np.random.default_rng(seed))
    moved = measure(values * factor + shift, rare, rng=np.random.default_rng(seed))
    assert one.blocks == 10
    np.testing.assert_allclose(turned.difference, -one.difference)
    np.testing.assert_allclose([turned.se, turned.p_value], [one.se, one.p_value])
    np.testing.assert_allclose(moved.difference, one.difference * factor, atol=1e-9)
    np.testing.assert_allclose(moved.p_value, one.p_value)


def test_undefined_differences_say_why() -> None:
    rng = np.random.default_rng(0)
    values, strata = np.ones((8, 1)), np.zeros(8, dtype=int)
    rare = np.arange(8) % 2 == 0
    few = class_difference(values, rare, strata, np.arange(8) // 2, rng)
    assert few.reason == "4 blocks of windows, under 6" and np.isnan(few.p_value).all() and few.difference == 0
    values[3] = np.nan
    assert class_difference(values, rare, strata, np.arange(8), rng).reason == "a query's attention is 0 everywhere"
    empty = class_difference(values[:0], rare[:0], strata[:0], strata[:0], rng)
    assert empty.reason == "no rare position has a match" and empty.n == 0
    with pytest.raises(ValueError, match="unequal numbers"):
        class_difference(values, np.arange(8) < 3, strata, strata, rng)
