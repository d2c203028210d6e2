"""Modules among neurons: against networkx and enumeration, closed forms, invariances, nulls and real checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.graphs import (
    as_networkx,
    built,
    compared,
    correlation,
    edge_counts,
    everyone,
    factors,
    from_weights,
    graph_of,
    group_modularity,
    mean_correlation,
    mean_correlation_reasons,
    modularity_reason,
    random_graph,
    rewired_z,
    segregation,
    segregation_reason,
)
from support.random_sets import random_sets

from rtdyn.analyses.groups.communities import RESTARTS, equal_edges, louvain
from rtdyn.analyses.groups.graph import MIN_EDGES, Graph
from rtdyn.analyses.kernels import graphs
from rtdyn.capture.forward_pass import Capture
from rtdyn.undefined import Undefined

STEPS = (1, 512, 4000)


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
    assert isinstance(few_ends, Undefined) and few_ends.reason == "only 1 edge with an end in the group"
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


def test_more_orders_of_the_nodes_would_change_little_of_the_spread(captured: Callable[[int], Capture]) -> None:
    rng = np.random.default_rng(20)
    for step in STEPS:
        r = correlation(captured(step).activations)
        varying = np.flatnonzero(np.isfinite(np.diag(r)))
        sets = np.stack([rng.permutation(varying)[:200] for _ in range(40)])
        edges = equal_edges(edge_counts(r, sets))
        some, many = (group_modularity(r, sets, edges=edges, restarts=k) for k in (RESTARTS, 4 * RESTARTS))
        assert (many - some).mean() < 0.004
        assert (many - some).std() < (0.4 if step == 1 else 0.2) * many.std()
