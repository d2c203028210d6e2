"""Differences between the classes: closed forms, planted cases and the null."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analyses.routing.captures import measured_positions
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from rtdyn.analyses.regimes.contrast import contrast
from rtdyn.analyses.routing.differences import Difference, class_difference, gini
from rtdyn.analyses.routing.matching import STRATUM
from rtdyn.analyses.routing.reference import PseudoSets, reference
from rtdyn.analyses.statistics import Comparison
from rtdyn.text.positions import MeasuredPositions
from rtdyn.text.pseudo_classes import overlap, pseudo_classes
from rtdyn.undefined import Undefined


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


def geometry(seed: int, clumped: bool, windows: int = 60) -> tuple[MeasuredPositions, PseudoSets]:
    """Ten positions a window, an eighth of them rare, all of these in half of the windows if clumped."""
    rng = np.random.default_rng(seed)
    query = np.concatenate([np.sort(rng.choice(64, 10, replace=False)) for _ in range(windows)])
    window = np.repeat(np.arange(windows), 10)
    share = np.where(rng.random(windows) < 0.5, 0.25, 0.0)[window] if clumped else 0.125
    positions = measured_positions(query, rng.random(len(query)) < share, window, 64)
    members = pseudo_classes(positions, draws=99, seed=seed)
    assert not isinstance(members, Undefined)
    return positions, PseudoSets(members, overlap(members))


def noise(rng: np.random.Generator, positions: MeasuredPositions, columns: int, effect: float) -> np.ndarray:
    """(N, columns) values that have nothing to do with the classes; `effect` is what windows share."""
    windows = int(positions.window.max()) + 1
    shared = effect * rng.standard_normal((windows, columns))[positions.window]
    return shared + rng.standard_normal((len(positions.flat), columns))


def p_values(d: Difference) -> np.ndarray:
    assert all(isinstance(a, Comparison) for a in d.against)
    return np.array([a.p_value for a in d.against if isinstance(a, Comparison)])


@pytest.mark.slow
@pytest.mark.parametrize(("clumped", "effect", "most"), [(False, 0.0, 0.06), (False, 0.7, 0.06), (True, 0.7, 0.07)])
def test_classes_that_do_not_differ_are_told_apart_no_oftener_than_the_level_says(
    clumped: bool, effect: float, most: float
) -> None:
    """Classes are exchangeable; windows have values of their own. p errs to the safe side where these are slight."""
    p, covered, naive = [], [], []
    for seed in range(8):
        positions, pseudo = geometry(seed, clumped)
        beside = reference(positions, np.arange(60), pseudo)
        values = noise(np.random.default_rng(seed), positions, 300, effect)[beside.rows]
        found = class_difference(values, beside, pseudo)
        p.append(p_values(found))
        reach = stats.t.ppf(0.975, found.clusters - 1) * found.se
        covered.append(np.abs(found.difference) <= reach)
        by_position = reference(positions, np.arange(60), None)
        alone = class_difference(values, replace(by_position, cluster=np.arange(len(values))), pseudo)
        naive.append(np.abs(alone.difference) <= 1.96 * alone.se)
    share, spread = np.mean(np.concatenate(p) <= 0.05), stats.kstest(np.concatenate(p), "uniform").statistic
    assert 0.015 <= share <= most
    assert spread < 0.1
    assert 0.93 <= np.mean(covered) <= 0.97
    if clumped:
        assert np.mean(naive) < 0.92  # the dependence matters


def test_a_planted_difference_is_found_with_its_size() -> None:
    positions, pseudo = geometry(1, clumped=True)
    beside = reference(positions, np.arange(60), pseudo)
    values = noise(np.random.default_rng(1), positions, 1, 0.5)
    rare = positions.members("rare")
    shifted = np.hstack([values, values + 0.8 * rare[:, None], values + 0.1 * positions.query[:, None] // 16])
    found = class_difference(shifted[beside.rows], beside, pseudo)
    assert p_values(found)[0] > 0.05 and p_values(found)[1] == 2 / 100
    assert found.difference[1] - found.difference[0] == pytest.approx(0.8)
    assert abs(found.difference[1] - 0.8) < 3 * found.se[1]
    # both classes are at the same places, so that what changes with the place is no difference
    assert found.difference[2] == pytest.approx(found.difference[0])
    assert found.n == rare.sum() and found.clusters == len(np.unique(positions.window[rare]))
    low, high = found.interval(1)
    reach = stats.t.ppf(0.975, found.clusters - 1) * found.se[1]
    assert (low, high) == pytest.approx((found.difference[1] - reach, found.difference[1] + reach))


def test_a_difference_is_that_of_loops_and_stands_among_those_of_pseudo_classes() -> None:
    positions, pseudo = geometry(2, clumped=False, windows=40)
    beside = reference(positions, np.arange(40) // 2, pseudo)
    values = noise(np.random.default_rng(2), positions, 2, 0.5)
    found = class_difference(values[beside.rows], beside, pseudo)
    common = positions.members("common")

    def difference(members: np.ndarray) -> np.ndarray:
        strata = positions.query // STRATUM
        own = np.flatnonzero(members)
        apart = [values[i] - values[common & ~members & (strata == strata[i])].mean(0) for i in own]
        return np.mean(apart, axis=0)

    np.testing.assert_allclose(found.difference, difference(positions.members("rare")))
    np.testing.assert_allclose(found.rare - found.common, found.difference)
    null = np.array([difference(members) for members in pseudo.members])
    for k in (0, 1):
        expected = contrast(float(found.difference[k]), null[:, k], pseudo.overlap)
        against = found.against[k]
        assert isinstance(expected, Comparison) and isinstance(against, Comparison)
        assert against.p_value == expected.p_value
        np.testing.assert_allclose([against.null_mean, against.null_sd], [expected.null_mean, expected.null_sd])


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=10, deadline=None)
def test_differences_ignore_the_scale(seed: int, factor: float, shift: float) -> None:
    positions, pseudo = geometry(3, clumped=False, windows=40)
    beside = reference(positions, np.arange(40), pseudo)
    values = noise(np.random.default_rng(seed), positions, 3, 0.5)[beside.rows]
    one, moved = (class_difference(v, beside, pseudo) for v in (values, factor * values + shift))
    np.testing.assert_allclose(moved.difference, one.difference * factor, atol=1e-9)
    np.testing.assert_allclose(moved.se, one.se * factor, atol=1e-9)
    np.testing.assert_allclose(p_values(moved), p_values(one))


def test_undefined_differences_say_why() -> None:
    positions, pseudo = geometry(0, clumped=False, windows=40)
    beside = reference(positions, np.arange(40), pseudo)
    values = noise(np.random.default_rng(0), positions, 2, 0.5)[beside.rows]
    values[3, 1] = np.nan
    dark = class_difference(values, beside, pseudo)
    assert dark.against[1] == Undefined("a query's attention is 0 everywhere") and dark.interval(1) == (None, None)
    assert isinstance(dark.against[0], Comparison)
    assert np.isnan([v[1] for v in (dark.rare, dark.common, dark.difference, dark.se)]).all()
    without = reference(positions, np.arange(40), None)
    none = class_difference(values, without, Undefined("too few common types"))
    assert none.against[0] == Undefined("too few common types")
    assert none.interval(0) == pytest.approx(dark.interval(0))
    whole = class_difference(values[:, :1], reference(positions, np.zeros(40, dtype=int), None), pseudo)
    assert whole.clusters == 1 and np.isnan(whole.se).all() and whole.interval(0) == (None, None)
    nobody = replace(
        positions, classes=(replace(positions.classes[0], measured=positions.flat[:0]), positions.classes[1])
    )
    empty = class_difference(values[:0], reference(nobody, np.arange(40), None, least_query=64), pseudo)
    assert empty.against == (Undefined("no rare position has a common one at its place"),) * 2 and empty.n == 0
