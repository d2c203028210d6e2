"""Null sets: their sizes, where they come from, what they match, and p-values that are uniform."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.groups.nulls import matching_cells, permuted_sets
from rtdyn.analyses.statistics import Comparison, compare
from rtdyn.capture.forward_pass import Capture
from rtdyn.undefined import Undefined


def test_compare_counts_the_value_in() -> None:
    null = np.arange(1.0, 100.0)
    middle, above = compare(50.0, null), compare(1000.0, null)
    assert isinstance(middle, Comparison) and isinstance(above, Comparison)
    assert (middle.null_mean, middle.p_value) == (50.0, 1.0)
    assert middle.null_sd == pytest.approx(np.std(null, ddof=1))
    assert above.p_value == pytest.approx(2 / 100)
    assert above.z(1000.0) == pytest.approx(950 / np.std(null, ddof=1))


def test_a_null_without_spread_has_no_z_and_ties_prove_nothing() -> None:
    flat = compare(3.0, np.full(99, 3.0))
    assert isinstance(flat, Comparison) and flat.z(3.0) is None and flat.p_value == 1.0


def test_sets_are_those_of_a_sort_by_cell_and_random_number() -> None:
    members, cell = (np.arange(5), np.arange(3, 30)), np.random.default_rng(0).integers(0, 7, 200)
    found = permuted_sets(members, cell, 9, np.random.default_rng(1))
    rng, by_cell, place = np.random.default_rng(1), np.argsort(cell, kind="stable"), np.empty(200, dtype=np.int64)
    for draw in range(9):
        place[by_cell] = np.lexsort((rng.random(200), cell))
        for sets, chosen in zip(found, members, strict=True):
            assert sets[draw].tolist() == sorted(place[chosen])


def test_undefined_draws_are_left_out_and_too_few_say_so() -> None:
    null = np.append(np.full(500, np.nan), np.arange(20.0))
    assert isinstance(compare(3.0, null), Comparison)
    assert compare(3.0, null[:-2]) == Undefined("only 18 sets of the null with a value")


def test_p_is_uniform_when_the_value_is_one_of_its_null() -> None:
    rng = np.random.default_rng(0)
    p = [compare(x[0], x[1:]).p_value for x in rng.normal(size=(1000, 200))]
    assert stats.kstest(p, "uniform").pvalue > 0.01


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 20), neurons=st.integers(40, 90))
def test_sets_have_the_sizes_the_overlap_and_the_cells_of_both_choices(seed: int, size: int, neurons: int) -> None:
    rng = np.random.default_rng(seed)
    members = (np.sort(rng.choice(neurons, size, replace=False)), np.sort(rng.choice(neurons, size + 3, replace=False)))
    cell = rng.integers(0, 6, neurons)
    for cells in (cell, np.zeros_like(cell)):
        first, second = permuted_sets(members, cells, 25, rng)
        assert first.shape == (25, size) and second.shape == (25, size + 3)
        for one, other in zip(first, second, strict=True):
            assert (np.diff(one) > 0).all() and (np.diff(other) > 0).all(), "a neuron twice"
            assert len(np.intersect1d(one, other)) == len(np.intersect1d(*members))
            assert (np.sort(cells[one]) == np.sort(cells[members[0]])).all()
            assert (np.sort(cells[other]) == np.sort(cells[members[1]])).all()


def test_random_sets_reach_every_neuron_equally() -> None:
    sets, _ = permuted_sets((np.arange(5), np.arange(5)), np.zeros(25, dtype=np.int64), 4000, np.random.default_rng(1))
    assert stats.chisquare(np.bincount(sets.ravel(), minlength=25)).pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 20, 32])
@pytest.mark.parametrize("cells", [1, 16])
@pytest.mark.parametrize("neurons", [64, 512])
def test_p_is_uniform_for_two_choices_that_overlap(overlap: int, cells: int, neurons: int) -> None:
    """The statistic is the mean of i.i.d. values, the same on both halves: what a fixed property of neurons shows."""
    rng = np.random.default_rng(overlap + cells)
    members = (np.arange(32), np.arange(32 - overlap, 64 - overlap))
    cell = np.arange(neurons) * 7 % cells
    p = []
    for _ in range(300):
        values = rng.normal(size=neurons)
        sets = permuted_sets(members, cell, 99, rng)
        null = sum(values[own].mean(1) for own in sets)
        found = compare(float(sum(values[own].mean() for own in members)), np.asarray(null))
        assert isinstance(found, Comparison)
        p.append(found.p_value)
    assert np.mean(np.array(p) <= 0.05) <= 0.09
    if neurons > 64 or overlap:
        assert stats.kstest(p, "uniform").pvalue > 0.001


def test_cells_are_of_deciles_of_equal_size_on_a_real_checkpoint(captured: Callable[[int], Capture]) -> None:
    one = captured(512)
    strong, often = np.divmod(matching_cells(one), 10)
    for column in (strong, often):
        assert set(np.bincount(column)) <= {51, 52}
    w = one.anatomy.output_rows.double().numpy()
    strength = np.sqrt(one.moments.variance.numpy()) * np.linalg.norm(w - w.mean(1, keepdims=True), axis=1)
    assert (np.diff([strength[strong == d].mean() for d in range(10)]) > 0).all()
