"""Weights of common positions at the rare ones' places: loops, properties, the jackknife and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from analyses.routing.captures import measured_positions
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.analyses.routing.matching import class_pools
from rtdyn.analyses.routing.reference import PseudoSets, Reference, reference
from rtdyn.analyses.statistics import jackknife_se
from rtdyn.text.positions import MeasuredPositions

STRATUM = 4


def geometry(
    seed: int, windows: int = 20, share: float = 0.2, length: int = 24
) -> tuple[MeasuredPositions, PseudoSets, np.ndarray]:
    """Ten positions a window, a share of them rare; five sets of common positions; two or three windows a cluster."""
    rng = np.random.default_rng(seed)
    query = np.concatenate([np.sort(rng.choice(length, 10, replace=False)) for _ in range(windows)])
    positions = measured_positions(query, rng.random(len(query)) < share, np.repeat(np.arange(windows), 10), length)
    _, common = class_pools(positions)
    members = np.zeros((5, len(query)), dtype=bool)
    for row in members:
        row[rng.choice(common, max(1, len(common) // 6), replace=False)] = True
    return positions, PseudoSets(members, 0.1), np.arange(windows) * 2 // 5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), share=st.sampled_from([0.05, 0.2, 0.7]), least=st.sampled_from([0, 5, 9]))
def test_weights_are_those_of_loops(seed: int, share: float, least: int) -> None:
    positions, pseudo, cluster = geometry(seed, windows=6, share=share)
    found = reference(positions, cluster, pseudo, least, STRATUM)
    rare, common = (set(pool.tolist()) for pool in class_pools(positions))
    assert found.rows.tolist() == [i for i in range(60) if positions.query[i] >= least]
    place = positions.query // STRATUM
    sets = [rare, *({int(i) for i in np.flatnonzero(row)} for row in pseudo.members)]
    for own, beside, members in zip(found.own, found.common, sets, strict=True):
        usable = [i for i in found.rows.tolist() if i in members]
        pool = [i for i in found.rows.tolist() if i in common and i not in members]
        kept = [i for i in usable if any(place[j] == place[i] for j in pool)]
        expected_own, expected_common = np.zeros((2, 60))
        for i in kept:
            expected_own[i] = 1 / len(kept)
            alike = [j for j in pool if place[j] == place[i]]
            for j in alike:
                expected_common[j] += 1 / len(kept) / len(alike)
        np.testing.assert_allclose(own, expected_own[found.rows], atol=1e-15)
        np.testing.assert_allclose(beside, expected_common[found.rows], atol=1e-15)
        if members is rare:
            assert (found.n, found.left_out) == (len(kept), len(usable) - len(kept))
    labels = cluster[positions.window[found.rows]]
    assert (labels == np.unique(labels)[found.cluster]).all()
    assert found.clusters == len({cluster[positions.window[i]] for i in found.rows[found.own[0] > 0]})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999))
def test_both_weights_sum_to_one_and_lie_at_the_same_places(seed: int) -> None:
    positions, pseudo, cluster = geometry(seed)
    found = reference(positions, cluster, pseudo, stratum=STRATUM)
    np.testing.assert_allclose([found.own.sum(1), found.common.sum(1)], 1.0)
    at = (found.stratum[:, None] == np.arange(found.stratum.max() + 1)).astype(float)
    np.testing.assert_allclose(found.own @ at, found.common @ at, atol=1e-12)
    assert not ((found.own > 0) & (found.common > 0)).any()
    # a value that depends on the place alone differs between no two sets
    by_place = np.sin(positions.query[found.rows] // STRATUM)
    np.testing.assert_allclose(found.own @ by_place, found.common @ by_place, atol=1e-12)


def test_rare_positions_without_common_ones_at_their_places_are_left_out() -> None:
    query = np.array([0, 1, 8, 9, 16, 17])
    rare = np.array([True, False, True, False, True, True])
    found = reference(measured_positions(query, rare, np.arange(6), 24), np.arange(6), None, stratum=8)
    assert (found.n, found.left_out, found.clusters) == (2, 2, 2)
    np.testing.assert_allclose(found.own, [[0.5, 0, 0.5, 0, 0, 0]])
    np.testing.assert_allclose(found.common, [[0, 0.5, 0, 0.5, 0, 0]])
    nobody = reference(measured_positions(query, np.zeros(6, dtype=bool), np.arange(6), 24), np.arange(6), None)
    assert (nobody.n, nobody.left_out, nobody.clusters) == (0, 0, 0) and not nobody.common.any()
    late = reference(measured_positions(query, rare, np.arange(6), 24), np.arange(6), None, least_query=99)
    assert (len(late.rows), late.n, late.clusters) == (0, 0, 0)


def measured(found: Reference, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rare class's means, those of its common positions, and the residuals of both."""
    own, common = found.own[0] @ values, found.common[0] @ values
    return own, common, *found.residuals(values, own, common)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999))
def test_without_a_cluster_is_the_reference_of_a_text_that_lacks_it(seed: int) -> None:
    positions, _, cluster = geometry(seed, windows=10)
    found = reference(positions, cluster, None, stratum=STRATUM)
    for left_out in range(found.cluster.max() + 1):
        own, common = found.without(left_out)
        kept = np.flatnonzero(cluster[positions.window] != left_out)
        rare = positions.members("rare")[kept]
        lacking = measured_positions(positions.query[kept], rare, positions.window[kept], 24)
        fresh = reference(lacking, cluster, None, stratum=STRATUM)
        for ours, theirs in ((own, fresh.own[0]), (common, fresh.common[0])):
            expected = np.zeros(len(found.rows))
            expected[kept[fresh.rows]] = theirs
            np.testing.assert_allclose(ours, expected, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999))
def test_residuals_sum_to_nothing_and_to_first_order_are_what_leaving_a_cluster_out_does(seed: int) -> None:
    positions, _, _ = geometry(seed, windows=120)
    cluster = np.arange(120)
    found = reference(positions, cluster, None, stratum=STRATUM)
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((120, 3))[positions.window] + rng.standard_normal((1200, 3)))[found.rows]
    values += 0.1 * positions.query[found.rows][:, None]
    own, common, of_own, of_common = measured(found, values)
    np.testing.assert_allclose([of_own.sum(0), of_common.sum(0)], 0, atol=1e-12)
    left = np.array([[w @ values for w in found.without(c)] for c in range(120)])
    for k, (mean, residual) in enumerate(((own, of_own), (common, of_common))):
        change = mean - left[:, k]
        assert np.corrcoef(change.ravel(), residual.ravel())[0, 1] > 0.97
        se = np.sqrt((residual**2).sum(0) * 120 / 119)
        np.testing.assert_allclose(se, jackknife_se(left[:, k]), rtol=0.15)
    se = np.sqrt(((of_own - of_common) ** 2).sum(0) * 120 / 119)
    np.testing.assert_allclose(se, jackknife_se(left[:, 0] - left[:, 1]), rtol=0.15)


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_residuals_have_the_scatter_of_means_over_texts(effect: float) -> None:
    """600 texts: windows, their rare positions and their values, which windows share, are all drawn anew."""
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for seed in range(600):
        positions, _, _ = geometry(seed, windows=40)
        found = reference(positions, np.arange(40), None, stratum=STRATUM)
        noise = effect * rng.standard_normal((40, 1))[positions.window] + rng.standard_normal((400, 1))
        values = (noise + 0.1 * positions.query[:, None])[found.rows]
        own, common, of_own, of_common = measured(found, values)
        estimates.append([own[0], common[0], own[0] - common[0]])
        residuals = np.stack([of_own, of_common, of_own - of_common])[..., 0]
        errors.append((residuals**2).sum(1) * found.clusters / (found.clusters - 1))
    scatter, claimed = np.std(estimates, axis=0), np.sqrt(np.mean(errors, axis=0))
    np.testing.assert_allclose(claimed, scatter, rtol=0.12)
    assert abs(np.mean(estimates, axis=0)[2]) < 4 * scatter[2] / np.sqrt(600)
