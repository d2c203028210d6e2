"""Null sets: their sizes, where they come from, what they match, and p-values that are uniform."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.nulls import Comparison, compare, largest, matched_sets, matching_deciles, random_sets
from rtdyn.capture import Capture


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


def test_undefined_draws_are_left_out_and_too_few_say_so() -> None:
    null = np.append(np.full(500, np.nan), np.arange(20.0))
    assert isinstance(compare(3.0, null), Comparison)
    assert compare(3.0, null[:-2]) == "only 18 sets of the null have a value"


def test_p_is_uniform_when_the_value_is_one_of_its_null() -> None:
    rng = np.random.default_rng(0)
    p = [compare(x[0], x[1:]).p_value for x in rng.normal(size=(1000, 200))]
    assert stats.kstest(p, "uniform").pvalue > 0.01


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 20), neurons=st.integers(40, 90))
def test_sets_are_of_equal_size_and_from_outside(seed: int, size: int, neurons: int) -> None:
    rng = np.random.default_rng(seed)
    members = np.sort(rng.choice(neurons, size, replace=False))
    deciles = rng.integers(0, 10, (neurons, 2))
    drawn, matched = random_sets(members, neurons, 25, rng), matched_sets(members, deciles, 25, rng)
    assert not isinstance(drawn, str) and not isinstance(matched, str)
    for sets in (drawn, matched[0]):
        assert sets.shape == (25, size)
        assert (np.diff(sets, axis=1) > 0).all(), "a neuron twice"
        assert not np.isin(sets, members).any()


def test_random_sets_reach_every_outside_neuron_equally() -> None:
    sets = random_sets(np.arange(5), 25, 4000, np.random.default_rng(1))
    assert not isinstance(sets, str)
    counts = np.bincount(sets.ravel(), minlength=25)[5:]
    assert stats.chisquare(counts).pvalue > 0.01


def test_matched_sets_have_the_groups_deciles_where_the_outside_has_them() -> None:
    rng = np.random.default_rng(2)
    deciles = np.repeat(np.array([[d, e] for d in range(10) for e in range(10)]), 6, axis=0)
    members = np.sort(rng.choice(np.flatnonzero(deciles[:, 0] == 9), 20, replace=False))
    matched = matched_sets(members, deciles, 50, rng)
    assert not isinstance(matched, str)
    sets, distance = matched
    cells = np.sort(deciles @ np.array([10, 1]))
    wanted = np.sort((deciles @ np.array([10, 1]))[members])
    enough = np.bincount(wanted, minlength=100).max() <= 3
    assert len(cells) == 600 and (distance == 0) == enough
    if enough:
        assert all((np.sort((deciles @ np.array([10, 1]))[s]) == wanted).all() for s in sets)
    drawn = random_sets(members, 600, 50, rng)
    assert not isinstance(drawn, str)
    assert deciles[sets][..., 0].mean() > 8.5 > deciles[drawn][..., 0].mean()


def test_what_cannot_be_matched_is_as_near_as_it_can_be_and_counted() -> None:
    deciles = np.array([[9, 9]] * 3 + [[8, 9]] + [[0, 0]] * 10)
    matched = matched_sets(np.array([0, 1]), deciles, 20, np.random.default_rng(0))
    assert not isinstance(matched, str)
    assert (matched[0] == [2, 3]).all()
    assert matched[1] == pytest.approx(0.5)


def test_a_group_of_more_than_half_has_no_sets() -> None:
    rng = np.random.default_rng(0)
    members = np.arange(6)
    reason = "4 neurons outside a group of 6 make no set of its size"
    assert random_sets(members, 10, 5, rng) == reason
    assert matched_sets(members, np.zeros((10, 2), dtype=int), 5, rng) == reason


def test_deciles_are_of_equal_size_on_a_real_checkpoint(captured: Callable[[int], Capture]) -> None:
    one = captured(512)
    deciles = matching_deciles(one)
    for column in deciles.T:
        assert set(np.bincount(column)) <= {51, 52}
    w = one.anatomy.output_rows.double().numpy()
    strength = np.sqrt(one.moments.variance.numpy()) * np.linalg.norm(w - w.mean(1, keepdims=True), axis=1)
    assert (np.diff([strength[deciles[:, 0] == d].mean() for d in range(10)]) > 0).all()


def test_largest_takes_the_first_of_equals() -> None:
    assert largest(np.array([[1.0, 3.0, 3.0, 0.0]]), 2).tolist() == [[1, 2]]
    assert largest(np.array([[1.0, 3.0, 3.0, 3.0]]), 2).tolist() == [[1, 2]]
