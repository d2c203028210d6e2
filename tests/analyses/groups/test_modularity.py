"""Modules among neurons: against networkx and enumeration, closed forms, invariances, nulls and real checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.random_sets import random_sets

from rtdyn.analyses.groups import communities, correlations, graph, set_sums
from rtdyn.analyses.groups import segregation as segregations
from rtdyn.analyses.groups.communities import SWAPS_PER_EDGE, equal_edges, louvain, rewired_graph, swap_attempts
from rtdyn.analyses.groups.graph import MIN_EDGES, Graph, joined, least_weight
from rtdyn.analyses.groups.set_sums import SetSums, inside_by_product, layer
from rtdyn.analyses.kernels import graphs
from rtdyn.analyses.statistics import Comparison, compare
from rtdyn.capture.forward_pass import Capture
from rtdyn.undefined import Undefined

STEPS = (1, 512, 4000)


def of_array(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of correlations, given as an array."""
    return lambda r, *arguments, **options: function(torch.from_numpy(r), *arguments, **options)


group_modularity, rewired_z, modularity_reason = map(
    of_array, (communities.group_modularity, communities.rewired_z, communities.modularity_reason)
)
graph_of, edge_counts = of_array(graph.graph_of), of_array(set_sums.edge_counts)


def correlation(columns: torch.Tensor, **options: int) -> np.ndarray:
    return correlations.correlation(columns, **options).numpy()


def sums_of(r: np.ndarray, sets: np.ndarray, threshold: float | None = 0.3) -> SetSums:
    return set_sums.set_sums(layer(torch.from_numpy(r), threshold), np.atleast_2d(sets))


def of_sums(function: Callable[[SetSums], Any]) -> Callable[..., Any]:
    """The function of sums over sets, given correlations, sets and perhaps a threshold."""
    return lambda r, sets, **options: function(sums_of(r, sets, **options))


segregation, segregation_reason, mean_correlation, mean_correlation_reasons = map(
    of_sums,
    (
        segregations.segregation,
        segregations.segregation_reason,
        segregations.mean_correlation,
        segregations.mean_correlation_reasons,
    ),
)


def from_weights(weights: np.ndarray) -> np.ndarray:
    """A matrix shaped like correlations, from the upper triangle of `weights`."""
    r = np.triu(weights, 1).astype(np.float32)
    r += r.T
    np.fill_diagonal(r, 1.0)
    return r


def random_graph(rng: np.random.Generator, nodes: int, density: float) -> np.ndarray:
    weights = rng.uniform(0.3, 1, (nodes, nodes)) * rng.choice([-1, 1], (nodes, nodes))
    return from_weights(weights * (rng.random((nodes, nodes)) < density))


def factors(rng: np.random.Generator, neurons: int, modules: int, noise: float = 1.0, n: int = 1500) -> np.ndarray:
    """Correlations of neurons that each follow one of `modules` latent signals."""
    latent = rng.standard_normal((n, modules))
    own = rng.integers(modules, size=neurons)
    return correlation(torch.from_numpy(latent[:, own] + noise * rng.standard_normal((n, neurons))))


def as_networkx(r: np.ndarray, members: np.ndarray, threshold: float) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(members.tolist())
    for i, j in combinations(members.tolist(), 2):
        weight = abs(float(r[i, j]))
        if weight >= threshold and weight > 0:
            graph.add_edge(i, j, weight=weight)
    return graph


def everyone(r: np.ndarray) -> np.ndarray:
    return np.arange(len(r))[None]


def built(r: np.ndarray, threshold: float | None = 0.3) -> Graph:
    graph = graph_of(r, np.arange(len(r)), threshold, None)
    assert isinstance(graph, Graph)
    return graph


def compared(value: float, null: np.ndarray) -> Comparison:
    result = compare(value, null)
    assert isinstance(result, Comparison)
    return result


def degrees(graph: Graph) -> np.ndarray:
    return (graph.between > 0).sum(1)


def test_correlation_equals_numpys_in_any_blocks() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 37)) + rng.standard_normal((200, 37))
    z = z * 10.0 ** rng.integers(-8, 8, 37) + 3
    for block in (1, 7, 37, 1024):
        r = correlation(torch.from_numpy(z), block=block)
        np.testing.assert_allclose(r, np.corrcoef(z.T), atol=1e-6)
        assert (r == r.T).all()
        assert (r.diagonal() == 1).all()
        assert (np.abs(r) <= 1).all()


def test_correlation_of_constant_or_broken_columns_is_undefined() -> None:
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    expected = np.corrcoef(z.numpy()[:, [0, 2, 5]].T)
    z[:, 1] = 0.1
    z[3, 3] = torch.nan
    z[4, 4] = torch.inf
    r = correlation(z, block=2)
    undefined = np.isin(np.arange(6), [1, 3, 4])
    assert np.isnan(r[undefined]).all()
    assert np.isnan(r[:, undefined]).all()
    np.testing.assert_allclose(r[np.ix_(~undefined, ~undefined)], expected, atol=1e-6)


@given(st.integers(0, 2**31), st.floats(-50, 50).filter(lambda v: abs(v) > 1e-3), st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_correlation_knows_neither_unit_nor_origin(seed: int, scale: float, shift: float) -> None:
    z = np.random.default_rng(seed).standard_normal((40, 6))
    moved = z.copy()
    moved[:, 2] = scale * z[:, 2] + shift
    signs = np.where(np.arange(6) == 2, np.sign(scale), 1)
    expected = correlation(torch.from_numpy(z)) * np.outer(signs, signs)
    np.testing.assert_allclose(correlation(torch.from_numpy(moved)), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("cliques", "size"), [(3, 5), (6, 6), (10, 4)])
def test_ring_of_cliques_has_its_closed_form(cliques: int, size: int) -> None:
    weights = np.kron(np.eye(cliques), np.ones((size, size)))
    for c in range(cliques):
        a, b = sorted((c * size, (c + 1) % cliques * size + 1))
        weights[a, b] = 1
    q = group_modularity(from_weights(weights), np.arange(cliques * size)[None])
    assert q[0] == pytest.approx(1 - 1 / (size * (size - 1) / 2 + 1) - 1 / cliques, abs=1e-12)


@pytest.mark.slow
def test_planted_partition_is_found_with_networkxs_modularity() -> None:
    rng = np.random.default_rng(1)
    module = rng.integers(4, size=60)
    strength = np.where(module[:, None] == module, 0.7, 0.35) + rng.uniform(-0.05, 0.05, (60, 60))
    r = from_weights(strength * (rng.random((60, 60)) < np.where(module[:, None] == module, 0.8, 0.1)))
    graph = as_networkx(r, np.arange(60), 0.3)
    planted = nx.community.modularity(graph, [set(np.flatnonzero(module == m).tolist()) for m in range(4)])
    assert group_modularity(r, everyone(r))[0] == pytest.approx(planted, abs=1e-9)


@pytest.mark.parametrize("threshold", [0.15, None])
def test_modularity_is_that_of_its_partition_and_as_good_as_networkxs(threshold: float | None) -> None:
    rng = np.random.default_rng(2)
    for noise in (0.8, 1.2, 2.0):
        r = factors(rng, 40, 5, noise)
        graph = as_networkx(r, np.arange(40), threshold or 0.0)
        reference = max(
            nx.community.modularity(graph, nx.community.louvain_communities(graph, seed=seed)) for seed in range(4)
        )
        mine = built(r, threshold)
        value, community = louvain(mine, 10, np.random.default_rng(0))
        renamed = nx.Graph()
        renamed.add_weighted_edges_from(
            (int(a), int(b), float(w)) for (a, b), w in zip(mine.ends, mine.weights, strict=True)
        )
        parts = [set(np.flatnonzero(community == c).tolist()) for c in np.unique(community)]
        assert value == pytest.approx(nx.community.modularity(renamed, parts), abs=1e-12)
        assert value == group_modularity(r, everyone(r), threshold=threshold)[0]
        assert value > reference - 0.005


def partitions(nodes: int) -> Iterator[list[int]]:
    """Every partition, each once, as restricted growth strings."""

    def grow(prefix: list[int], used: int) -> Iterator[list[int]]:
        if len(prefix) == nodes:
            yield prefix
            return
        for c in range(used + 1):
            yield from grow([*prefix, c], max(used, c + 1))

    return grow([], 0)


def test_louvain_reaches_the_optimum_of_small_graphs() -> None:
    rng = np.random.default_rng(3)
    every = np.array(list(partitions(7)))
    same = every[:, :, None] == every[:, None, :]
    reached = 0
    for _ in range(40):
        w = random_graph(rng, 7, 0.5)
        w = np.abs(w - np.eye(7, dtype=np.float32)).astype(np.float64)
        k, total = w.sum(1), w.sum()
        optimum = ((w / total - np.outer(k, k) / total**2) * same).sum((1, 2)).max()
        graph = Graph(graphs.linked(w, np.arange(7), graphs.pair_weights(w, np.arange(7), 0.1), 0.0, 0))
        value, _ = louvain(graph, 10, np.random.default_rng(0))
        assert value <= optimum + 1e-12
        reached += value > optimum - 1e-12
    assert reached >= 38


@pytest.mark.parametrize("density", [0.04, 0.3, 0.9])
def test_moving_ends_where_no_move_gains(density: float) -> None:
    rng = np.random.default_rng(11)
    for _ in range(5):
        w = built(random_graph(rng, 90, density)).between
        np.testing.assert_array_equal(w, w.T)
        k, total = w.sum(1), w.sum()
        found, _, _ = graphs.settled(w, k, total, rng.permutation(len(w)))
        member = found[:, None] == np.unique(found)
        towards, held = w @ member, k @ member
        # Q's gain, times half the total, of a node that joins a community it is not in
        gain = towards - k[:, None] * (held - k[:, None] * member) / total
        assert (gain[member][:, None] >= gain - 1e-9).all()
        assert 1 < member.shape[1] < len(w)


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.04, 0.3, 0.9])
def test_louvain_is_no_worse_than_networkxs(density: float) -> None:
    rng = np.random.default_rng(12)
    ours, theirs = [], []
    for _ in range(6):
        r = random_graph(rng, 90, density)
        there = as_networkx(r, np.arange(90), 0.3)
        found = [nx.community.louvain_communities(there, seed=seed) for seed in range(10)]
        ours.append(group_modularity(r, everyone(r))[0])
        theirs.append(max(nx.community.modularity(there, one) for one in found))
    assert np.mean(ours) > np.mean(theirs) - 0.002 and np.min(np.subtract(ours, theirs)) > -0.01


@given(st.integers(0, 2**31), st.sampled_from([0.3, None]))
@settings(max_examples=15, deadline=None)
def test_modularity_knows_neither_names_nor_signs_nor_scale(seed: int, threshold: float | None) -> None:
    rng = np.random.default_rng(seed)
    r = random_graph(rng, 30, 0.4)
    sets = np.stack([rng.permutation(30)[:20] for _ in range(3)])
    options = {"threshold": threshold, "edges": None if threshold else 40}
    expected = group_modularity(r, sets, **options)
    assert np.isfinite(expected).all()
    order = rng.permutation(30)
    where = np.argsort(order)
    renamed = np.ascontiguousarray(r[np.ix_(order, order)])
    np.testing.assert_array_equal(group_modularity(renamed, where[sets], **options), expected)
    signs = rng.choice([-1, 1], 30).astype(np.float32)
    np.testing.assert_array_equal(group_modularity(r * np.outer(signs, signs), sets, **options), expected)
    np.testing.assert_array_equal(group_modularity(r, rng.permuted(sets, axis=1), **options), expected)
    if threshold is None:
        np.testing.assert_allclose(group_modularity(r * np.float32(0.25), sets, **options), expected, atol=1e-12)


def test_a_set_has_the_same_value_alone_and_among_others() -> None:
    rng = np.random.default_rng(4)
    r = factors(rng, 60, 6, 1.5)
    sets = np.stack([rng.permutation(60)[:25] for _ in range(6)])
    together = group_modularity(r, sets, restarts=1)
    alone = [group_modularity(r, one[None], restarts=1)[0] for one in sets]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(group_modularity(r, sets, restarts=1), together)
    best = group_modularity(r, sets, restarts=20)
    assert (best >= together).all()
    z = [rewired_z(r, sets[:2], draws=5, seed=seed).z for seed in (0, 0, 1)]
    np.testing.assert_array_equal(z[0], z[1])
    assert (z[0] != z[2]).all()


def test_equal_edges_is_the_median_of_all_sets_own() -> None:
    rng = np.random.default_rng(5)
    r = factors(rng, 50, 5)
    sets = np.stack([rng.permutation(50)[:15] for _ in range(7)])
    counts = edge_counts(r, sets, threshold=0.25)
    assert counts.tolist() == [as_networkx(r, one, 0.25).number_of_edges() for one in sets]
    assert equal_edges(counts) == int(np.median(counts))
    assert equal_edges(np.array([4, 1])) == 1
    with pytest.raises(ValueError, match="no sets"):
        equal_edges(np.array([]))


def test_strongest_edges_are_those_networkx_is_given() -> None:
    rng = np.random.default_rng(6)
    r = factors(rng, 30, 4, 1.5)
    i, j = np.triu_indices(30, 1)
    order = np.argsort(-np.abs(r[i, j]), kind="stable")[:60]
    cut = np.zeros_like(r)
    cut[i[order], j[order]] = r[i[order], j[order]]
    strongest = group_modularity(r, everyone(r), edges=60)
    assert strongest[0] == pytest.approx(group_modularity(from_weights(cut), everyone(r), threshold=None)[0], abs=1e-12)
    # at the threshold that lies between the last edge and the next, both are one graph
    between = float(np.abs(r[i, j])[order[-1]])
    assert strongest[0] == group_modularity(r, everyone(r), threshold=between)[0]


def test_tied_edges_are_counted_exactly() -> None:
    r = from_weights(np.full((12, 12), 0.5))
    graph = graph_of(r, np.arange(12), None, 20)
    assert isinstance(graph, Graph)
    assert graph.edges == len(graph.ends) == len(graph.weights) == 20


@pytest.fixture(scope="module")
def population() -> tuple[np.ndarray, np.ndarray]:
    """A layer of 300 neurons of like kind, and a group of 40 with 199 sets from outside it."""
    rng = np.random.default_rng(7)
    signals = rng.standard_normal((800, 8)) @ rng.gamma(0.5, 1, (8, 300))
    r = correlation(torch.from_numpy(signals + 2.5 * rng.standard_normal((800, 300))))
    group = np.sort(rng.choice(300, 40, replace=False))
    sets = random_sets(group, 300, 199, rng)
    assert isinstance(sets, np.ndarray)
    return r, np.vstack([group, sets])


def verdict(r: np.ndarray, sets: np.ndarray, **options: float | None) -> float:
    values = group_modularity(r, sets, restarts=5, **options)
    return compared(values[0], values[1:]).p_value


def shared_noise(r: np.ndarray, group: np.ndarray, amount: float) -> np.ndarray:
    """The correlations after the group's neurons all get one common signal: uniform edges, no module."""
    moved = r.astype(np.float64)
    share = np.zeros(len(r))
    share[group] = np.sqrt(amount)
    moved = moved * np.outer(np.sqrt(1 - share**2), np.sqrt(1 - share**2)) + np.outer(share, share)
    return moved.astype(np.float32)


@pytest.mark.slow
def test_density_alone_moves_no_verdict(population: tuple[np.ndarray, np.ndarray]) -> None:
    r, sets = population
    group = np.ix_(sets[0], sets[0])
    # every r of the group's is scaled alike: the same structure, more of it above the threshold
    denser = r.copy()
    denser[group] *= 1.5
    np.fill_diagonal(denser, 1)
    assert np.abs(denser).max() == 1
    counts = edge_counts(denser, sets)
    assert counts[0] > 1.4 * edge_counts(r, sets[:1])[0]
    assert counts[0] > counts[1:].max()
    for m in (equal_edges(counts) // 2, equal_edges(counts), 2 * equal_edges(counts)):
        np.testing.assert_allclose(
            group_modularity(denser, sets, edges=m), group_modularity(r, sets, edges=m), atol=1e-6
        )
        assert verdict(denser, sets, edges=m) == verdict(r, sets, edges=m) > 0.1
    # at a fixed threshold the same change is read as lost modules
    assert verdict(r, sets, threshold=0.3) > 0.1
    assert verdict(denser, sets, threshold=0.3) < 0.05


def test_uniform_noise_edges_move_no_verdict(population: tuple[np.ndarray, np.ndarray]) -> None:
    r, sets = population
    quiet = np.abs(r)
    noisy = shared_noise(quiet, sets[0], 0.3)
    m = equal_edges(edge_counts(quiet, sets))
    assert edge_counts(noisy, sets[:1])[0] > 2 * edge_counts(quiet, sets[:1])[0]
    assert verdict(quiet, sets, edges=m) > 0.1
    assert verdict(noisy, sets, edges=m) > 0.1
    assert verdict(quiet, sets, threshold=0.3) > 0.1
    assert verdict(noisy, sets, threshold=0.3) < 0.05
    assert verdict(noisy, sets, threshold=None) < 0.05


def test_a_group_of_real_modules_is_found_at_every_density(population: tuple[np.ndarray, np.ndarray]) -> None:
    r, sets = population
    planted = r.copy()
    planted[np.ix_(sets[0], sets[0])] = factors(np.random.default_rng(8), 40, 4, 1.3)
    for threshold in (0.2, 0.25, 0.3):
        m = equal_edges(edge_counts(planted, sets, threshold=threshold))
        values = group_modularity(planted, sets, edges=m, restarts=5)
        assert values[0] > values[1:].max()
        assert compared(values[0], values[1:]).p_value == pytest.approx(0.01)


def test_ranks_among_like_sets_are_uniform() -> None:
    rng = np.random.default_rng(9)
    ranks = []
    for _ in range(150):
        r = factors(rng, 200, 6, 1.5, n=60)
        sets = rng.permutation(200).reshape(10, 20)
        m = equal_edges(edge_counts(r, sets))
        q = group_modularity(r, sets, edges=m, restarts=3)
        ranks.append(int((q[1:] < q[0]).sum()))
    # chi-square with 9 degrees of freedom: 27.9 at 0.001
    assert stats.chisquare(np.bincount(ranks, minlength=10)).statistic < 27.9


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


@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.3, None]))
@settings(max_examples=10, deadline=None)
def test_segregation_equals_networkxs(seed: int, threshold: float | None) -> None:
    rng = np.random.default_rng(seed)
    r = factors(rng, 45, 4, 1.2, n=60)
    sets = np.stack([rng.permutation(45)[:15] for _ in range(3)])
    result = segregation(r, sets, threshold=threshold)
    graph = as_networkx(r, np.arange(45), threshold or 0.0)
    for k, members in enumerate(sets):
        inside = set(members.tolist())
        expected = nx.community.modularity(graph, [inside, set(range(45)) - inside])
        assert result.modularity[k] == pytest.approx(expected, abs=1e-9)
        touching = [(w["weight"], a in inside and b in inside) for a, b, w in graph.edges(inside, data=True)]
        assert result.inside_share[k] == pytest.approx(np.mean([own for _, own in touching]))
        weights = np.array([w for w, _ in touching])
        own = np.array([w for w, both in touching if both])
        assert result.inside_weight_share[k] == pytest.approx(own.sum() / weights.sum())
        others = np.array(sorted(set(range(45)) - inside))[None]
        assert segregation(r, others, threshold=threshold).modularity[0] == pytest.approx(expected, abs=1e-9)


def test_segregation_of_blocks_has_its_closed_form() -> None:
    blocks = from_weights(np.kron(np.eye(2), np.full((20, 20), 0.5)))
    result = segregation(blocks, np.stack([np.arange(20), np.arange(10, 30)]))
    assert result.modularity[0] == pytest.approx(0.5)
    assert result.inside_share[0] == result.inside_weight_share[0] == 1
    # half of each clique: 90 of the 290 edges that touch the set stay inside
    assert result.modularity[1] == pytest.approx(2 * (0.25 - 200 / 760))
    assert result.inside_share[1] == pytest.approx(90 / 290)


def test_a_segregated_group_stands_out_and_a_random_one_does_not() -> None:
    rng = np.random.default_rng(15)
    ranks = []
    for _ in range(120):
        r = factors(rng, 80, 5, 1.3, n=60)
        sets = np.stack([rng.permutation(80)[:16] for _ in range(10)])
        q = segregation(r, sets).modularity
        ranks.append(int((q[1:] < q[0]).sum()))
    assert stats.chisquare(np.bincount(ranks, minlength=10)).statistic < 27.9
    r = factors(rng, 200, 8, 1.3)
    group = np.argsort(-r[0], kind="stable")[:20]
    sets = random_sets(group, 200, 199, rng)
    null = segregation(r, sets)
    own = segregation(r, group[None])
    assert compared(own.modularity[0], null.modularity).p_value == pytest.approx(0.01)
    assert own.inside_share[0] > null.inside_share.max()


def test_mean_correlation_equals_brute_force_and_keeps_the_sign() -> None:
    rng = np.random.default_rng(16)
    z = torch.from_numpy(rng.standard_normal((70, 4)) @ rng.standard_normal((4, 30)))
    z[:, 5] = 2.0
    r = correlation(z)
    sets = np.stack([rng.permutation(30)[:12] for _ in range(5)])
    result = mean_correlation(r, sets)
    for k, members in enumerate(sets):
        inside = [i for i in members if i != 5]
        outside = [i for i in range(30) if i not in members and i != 5]
        assert result.within[k] == pytest.approx(np.mean([r[i, j] for i, j in combinations(inside, 2)]), abs=1e-7)
        assert result.across[k] == pytest.approx(np.mean([r[i, j] for i in inside for j in outside]), abs=1e-7)
    opposed = factors(rng, 20, 1) * np.outer(np.repeat([1, -1], 10), np.repeat([1, -1], 10)).astype(np.float32)
    halves = mean_correlation(opposed, np.arange(10)[None])
    assert halves.within[0] > 0.3
    assert halves.across[0] < -0.3


@pytest.mark.parametrize("threshold", [None, 0.0, 0.3])
@pytest.mark.parametrize("block", [7, 1024])
def test_sums_by_products_are_those_of_the_loops(
    threshold: float | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_sums, "BLOCK", block)
    rng = np.random.default_rng(20)
    z = torch.from_numpy(rng.standard_normal((60, 5)) @ rng.standard_normal((5, 50)) + rng.standard_normal((60, 50)))
    z[:, [3, 40]] = 1.0
    r = correlation(z)
    r[5, 6] = r[6, 5] = 0
    for n in (1, 12, 45, 50):
        sets = np.sort(np.stack([rng.permutation(50)[:n] for _ in range(9)]), axis=1)
        loops = sums_of(r, sets, threshold).inside
        products = inside_by_product(torch.from_numpy(r), sets, least_weight(threshold))
        assert np.array_equal(products[1], loops[1])
        np.testing.assert_allclose(products, loops, rtol=1e-6, atol=1e-5)
        with monkeypatch.context() as patched:
            for constant in ("LOOP_NEURONS", "BLOCKS_COST", "SET_COST"):
                patched.setattr(set_sums, constant, 0)
            assert np.array_equal(sums_of(r, sets, threshold).inside, products)


def test_undefined_values_have_reasons() -> None:
    rng = np.random.default_rng(17)
    z = torch.from_numpy(rng.standard_normal((100, 40)))
    z[:, :4] = 1.0
    r = correlation(z)
    few, unlinked = np.arange(13), np.arange(10, 30)
    assert modularity_reason(r, few) == Undefined("only 9 of the group's neurons vary")
    few_edges = modularity_reason(r, unlinked)
    assert isinstance(few_edges, Undefined)
    assert few_edges.reason.startswith("only ") and few_edges.reason.endswith(" edges in the group's graph")
    assert modularity_reason(r, unlinked, threshold=None) is None
    assert modularity_reason(r, unlinked, edges=190) is None
    assert modularity_reason(r, unlinked, edges=191) == Undefined(
        "only 190 correlated pairs of the group's neurons, fewer than the 191 compared"
    )
    assert modularity_reason(r, unlinked, edges=MIN_EDGES) is None
    assert modularity_reason(r, unlinked, edges=MIN_EDGES - 1) == Undefined("only 9 edges in the group's graph")
    assert modularity_reason(r, unlinked, edges=0) == Undefined("only 0 edges in the group's graph")
    assert modularity_reason(r, np.array([7])) == Undefined("only 1 of the group's neurons vary")
    assert modularity_reason(r, np.array([], dtype=np.int64)) == Undefined("only 0 of the group's neurons vary")
    for members, options in ((few, {}), (unlinked, {}), (unlinked, {"edges": 191}), (np.array([7]), {})):
        assert np.isnan(group_modularity(r, members[None], **options)).all()
        assert np.isnan(rewired_z(r, members[None], draws=2, **options).z).all()
    no_rest = Undefined("no varying neuron lies outside the group")
    assert segregation_reason(r, few) == Undefined("only 9 of the group's neurons vary")
    few_ends = segregation_reason(r, unlinked)
    assert isinstance(few_ends, Undefined) and few_ends.reason.endswith(" edges with an end in the group")
    assert segregation_reason(r, np.arange(40), threshold=None) == no_rest
    assert segregation_reason(r, unlinked, threshold=None) is None
    undefined = segregation(r, np.stack([few, few + 1]))
    assert np.isnan([undefined.modularity, undefined.inside_share, undefined.inside_weight_share]).all()
    assert np.isnan(segregation(np.full_like(r, np.nan), few[None]).modularity).all()
    assert mean_correlation_reasons(r, np.array([0, 7])) == (Undefined("only 1 of the group's neurons vary"), None)
    assert mean_correlation_reasons(r, np.array([0, 1])) == (Undefined("only 0 of the group's neurons vary"),) * 2
    assert mean_correlation_reasons(r, np.arange(40)) == (None, no_rest)
    lone = mean_correlation(r, np.array([[0, 7], [0, 1]]))
    assert np.isnan(lone.within).all()
    assert np.isfinite(lone.across[0])
    assert np.isnan(lone.across[1])


def test_constant_neurons_change_nothing_else() -> None:
    rng = np.random.default_rng(18)
    z = torch.from_numpy(rng.standard_normal((200, 3))[:, rng.integers(3, size=30)] + rng.standard_normal((200, 30)))
    wide = torch.cat([z, torch.zeros(200, 5)], dim=1)
    r, padded = correlation(z), correlation(wide)
    members, more = np.arange(15)[None], np.append(np.arange(15), [30, 33])[None]
    np.testing.assert_array_equal(group_modularity(padded, more), group_modularity(r, members))
    np.testing.assert_allclose(segregation(padded, more).modularity, segregation(r, members).modularity, atol=1e-12)
    np.testing.assert_allclose(mean_correlation(padded, more).across, mean_correlation(r, members).across, atol=1e-12)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (np.array([[0, 1, 40]]), "not among"),
        (np.array([[-1, 1, 2]]), "not among"),
        (np.array([[1, 2, 1]]), "twice"),
        (np.array([[0.5, 1.0]]), "whole numbers"),
    ],
)
def test_what_is_no_set_is_refused(sets: np.ndarray, message: str) -> None:
    r = from_weights(np.ones((40, 40)))
    for statistic in (group_modularity, rewired_z, segregation, mean_correlation, edge_counts):
        with pytest.raises(ValueError, match=message):
            statistic(r, sets)
    with pytest.raises(ValueError, match="square"):
        edge_counts(r[:3], np.array([[0]]))
    with pytest.raises(ValueError, match="whole numbers"):
        edge_counts(r, np.array([1, 2]))


def test_bundled_checkpoints_agree_with_networkx(captured: Callable[[int], Capture]) -> None:
    rng = np.random.default_rng(19)
    for step in STEPS:
        z = captured(step).activations
        r = correlation(z)
        np.testing.assert_allclose(
            r[:20, :20], np.corrcoef(z[:, :20].double().numpy().T), atol=1e-6, err_msg=f"step {step}"
        )
        neurons = len(r)
        group = np.sort(np.argsort(-z.double().var(0).numpy(), kind="stable")[:32])
        sets = random_sets(group, neurons, 19, rng)
        assert isinstance(sets, np.ndarray)
        sets = np.vstack([group, sets])
        counts = edge_counts(r, sets, threshold=0.1)
        m = equal_edges(counts)
        graph = as_networkx(r, np.arange(neurons), 0.1)
        inside = set(group.tolist())
        two_blocks = nx.community.modularity(graph, [inside, set(range(neurons)) - inside])
        assert segregation(r, sets, threshold=0.1).modularity[0] == pytest.approx(two_blocks, abs=1e-9)
        q = group_modularity(r, sets, edges=m)
        own = as_networkx(r, group, 0.0)
        kept = sorted(own.edges(data="weight"), key=lambda e: -e[2])[:m]
        strongest = nx.Graph()
        strongest.add_weighted_edges_from(kept)
        reference = nx.community.modularity(strongest, nx.community.louvain_communities(strongest, seed=0))
        assert q[0] > reference - 0.005
        assert q[0] < reference + 0.05
        assert np.isfinite(q).all()
        assert np.isfinite(rewired_z(r, sets[:2], edges=m, draws=5).z).all()
        correlations = mean_correlation(r, sets)
        np.testing.assert_allclose(correlations.within[0], r[np.ix_(group, group)][np.triu_indices(32, 1)].mean(), 1e-4)
