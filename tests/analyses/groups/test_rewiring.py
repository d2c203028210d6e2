"""Rewired graphs: degrees that are kept, draws that are alike, and what stands out from them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.graphs import built, degrees, everyone, factors, from_weights, group_modularity, random_graph, rewired_z

from rtdyn.analyses.groups.communities import SWAPS_PER_EDGE, rewired_graph, swap_attempts
from rtdyn.analyses.groups.graph import joined


@given(st.integers(0, 2**31), st.floats(0.15, 0.95))
@settings(max_examples=25, deadline=None)
def test_rewiring_keeps_degrees_and_weights(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    graph = built(random_graph(rng, 24, density))
    rewired, made = rewired_graph(graph, 3000, rng)
    np.testing.assert_array_equal(degrees(rewired), degrees(graph))
    np.testing.assert_array_equal(np.sort(rewired.weights), np.sort(graph.weights))
    ends = np.sort(rewired.ends, axis=1)
    assert (ends[:, 0] < ends[:, 1]).all()
    assert len(np.unique(ends, axis=0)) == len(graph.ends)
    assert made > 0


@pytest.mark.parametrize("dense", [False, True])
def test_rewiring_draws_every_graph_of_the_degrees_alike(dense: bool) -> None:
    pairs = np.array(list(combinations(range(6), 2)))
    start = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 4), (3, 5)])
    if dense:
        start = np.array([p for p in pairs.tolist() if p not in start.tolist()])
    graph = joined(6, start, np.ones(len(start)))
    subsets = [pairs[list(chosen)] for chosen in combinations(range(15), len(start))]
    every = [s.tolist() for s in subsets if (degrees(joined(6, s, np.ones(len(s)))) == degrees(graph)).all()]
    assert len(every) > 10
    rng = np.random.default_rng(10)
    counts = np.zeros(len(every))
    for _ in range(3000):
        counts[every.index(sorted(np.sort(rewired_graph(graph, 120, rng)[0].ends, axis=1).tolist()))] += 1
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("density", [0.1, 0.45, 0.8])
def test_as_many_swaps_are_made_as_asked(density: float) -> None:
    rng = np.random.default_rng(11)
    graph = built(random_graph(rng, 60, density))
    attempts = swap_attempts(graph, SWAPS_PER_EDGE, 100.0, rng)
    made = [rewired_graph(graph, attempts, rng)[1] for _ in range(10)]
    assert min(made) >= SWAPS_PER_EDGE * graph.edges
    assert max(made) <= 1.4 * SWAPS_PER_EDGE * graph.edges
    result = rewired_z(random_graph(rng, 60, density), np.arange(60)[None], draws=4, swaps_per_edge=25)
    assert result.swaps_per_edge[0] == pytest.approx(27.5, rel=0.15)


@pytest.mark.slow
def test_random_graphs_rank_uniformly_among_their_rewired_ones() -> None:
    rng = np.random.default_rng(12)
    p, z = [], []
    for k in range(150):
        r = random_graph(rng, 20, rng.uniform(0.2, 0.8))
        result = rewired_z(r, everyone(r), draws=39, restarts=3, seed=k)
        p.append(result.p_value[0])
        z.append(result.z[0])
    # two-sided p of 40 ranks takes twenty values alike; the mean of 150 z has a standard error of 0.08
    assert stats.chisquare(np.bincount(np.ceil(np.array(p) * 10).astype(int) - 1, minlength=10)).pvalue > 0.001
    assert abs(np.mean(z)) < 0.3
    assert 0.8 < np.std(z) < 1.3


def test_planted_modules_stand_out_from_rewired_graphs() -> None:
    rng = np.random.default_rng(13)
    r = factors(rng, 48, 4)
    result = rewired_z(r, everyone(r), draws=50)
    assert result.modularity[0] == group_modularity(r, everyone(r))[0]
    assert result.z[0] > 10
    assert result.p_value[0] == pytest.approx(2 / 51)
    assert result.z[0] == pytest.approx((result.modularity[0] - result.null_mean[0]) / result.null_sd[0])
    with pytest.raises(ValueError, match="standard deviation"):
        rewired_z(r, everyone(r), draws=1)


def test_degrees_that_allow_one_graph_have_no_z() -> None:
    star = np.zeros((12, 12))
    star[0, 1:] = 0.5
    r = from_weights(star)
    result = rewired_z(r, everyone(r), draws=5)
    assert result.swaps_per_edge[0] == 0
    assert result.modularity[0] == result.null_mean[0] == pytest.approx(0, abs=1e-12)
    assert np.isnan(result.z[0])
    complete = from_weights(np.random.default_rng(14).uniform(0.3, 1, (12, 12)))
    moved = rewired_z(complete, everyone(complete), draws=20)
    assert moved.swaps_per_edge[0] == 0
    assert moved.null_sd[0] > 0
