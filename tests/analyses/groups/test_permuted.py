"""The null of permuted activations: what it keeps, planted modules, uniform p, and Q by networkx."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.analyses.groups.permuted import beside_permuted, permuted_correlations, permuted_within
from rtdyn.analyses.statistics import Comparison
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

NEURONS = 12


def activations(
    positions: int, rng: np.random.Generator, modules: int = 0, shift: float = 1.0
) -> tuple[torch.Tensor, np.ndarray]:
    """Windows of eight positions that shift all neurons alike; where asked, modules that are active together."""
    window = np.arange(positions) // 8
    values = rng.standard_normal((positions, NEURONS)) + shift * rng.standard_normal(positions // 8)[window][:, None]
    if modules:
        values += 1.5 * rng.standard_normal((positions, modules)).repeat(NEURONS // modules, axis=1)
    return torch.from_numpy(values).float(), window


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_permuting_keeps_each_neurons_values_in_their_windows_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = np.sort(rng.choice([2, 5, 6, 40], 60))
    values = rng.standard_normal((60, 3))
    permuted = permuted_within(values, window, rng)
    for w in set(window):
        np.testing.assert_array_equal(np.sort(permuted[window == w], axis=0), np.sort(values[window == w], axis=0))
    twice = permuted_within(np.repeat(values[:, :1], 2, axis=1), window, rng)
    assert not np.array_equal(twice[:, 0], twice[:, 1])


@pytest.mark.slow
def test_correlations_of_permuted_activations_are_numpys() -> None:
    values, window = activations(80, np.random.default_rng(4), modules=2)
    values[:, 5] = 3.0
    found = permuted_correlations(values, window, draws=19)
    rng, live = stream(0, "permuted activations"), np.arange(NEURONS) != 5
    for r in found:
        with np.errstate(invalid="ignore"):
            expected = np.corrcoef(permuted_within(values.numpy(), window, rng).T)
        np.testing.assert_allclose(r[live][:, live], expected[np.ix_(live, live)], atol=1e-6)
        assert r[5].isnan().all() and r[:, 5].isnan().all() and (r.diagonal()[live] == 1).all()
    given_them = beside_permuted(values, window, 0.3, draws=19, permuted=found)
    assert given_them == beside_permuted(values, window, 0.3, draws=19) and isinstance(given_them, Comparison)


def test_planted_modules_stand_out_and_a_shift_of_all_neurons_does_not() -> None:
    """The shift makes every pair correlate, which permuting keeps."""
    rng = np.random.default_rng(0)
    values, window = activations(400, rng, modules=3)
    planted = beside_permuted(values, window, 0.3)
    assert isinstance(planted, Comparison) and planted.p_value == 0.02
    within = beside_permuted(values, np.arange(400), 0.3)
    # a window of one position holds nothing to permute
    assert isinstance(within, Comparison) and within.null_sd < 1e-6 and within.p_value == 1


def test_without_modules_p_is_uniform() -> None:
    rng, p = np.random.default_rng(1), []
    for seed in range(60):
        values, window = activations(80, rng, shift=0.3)
        found = beside_permuted(values, window, None, draws=19, restarts=2, seed=seed)
        assert isinstance(found, Comparison)
        p.append(found.p_value)
    # of 20 places two are at 0.1 or under, one on each side
    assert np.mean(np.array(p) <= 0.1) < 0.25 and 0.35 < np.mean(p) < 0.65


def test_its_mean_is_that_of_networkxs_modularity_of_the_same_permutations() -> None:
    values, window = activations(160, np.random.default_rng(2), modules=2)
    shuffled = np.random.default_rng(3).permutation(160)
    found = beside_permuted(values[torch.from_numpy(shuffled)], window[shuffled], 0.4, draws=19)
    assert isinstance(found, Comparison)
    order = np.argsort(window[shuffled], kind="stable")
    rng, q = stream(0, "permuted activations"), []
    source = values.numpy()[shuffled][order]
    pairs = np.triu_indices(NEURONS, 1)
    edges = int((np.abs(np.corrcoef(source.T)[pairs]) >= 0.4).sum())
    for seed in range(19):
        r = np.abs(np.corrcoef(permuted_within(source, window[shuffled][order], rng).T))
        # Louvain takes its orders of the nodes from the same stream
        graph = nx.from_numpy_array(np.where(r >= np.sort(r[pairs])[-edges], r, 0) * (1 - np.eye(NEURONS)))
        graph.remove_nodes_from(list(nx.isolates(graph)))
        q.append(max(nx.community.modularity(graph, c) for c in communities(graph, seed)))
    assert found.null_mean == pytest.approx(np.mean(q), abs=4 * np.std(q) / np.sqrt(19))


def communities(graph: nx.Graph, seed: int) -> list[list[set[int]]]:
    return [nx.community.louvain_communities(graph, seed=seed + k) for k in range(5)]


def test_a_group_without_a_graph_says_why() -> None:
    rng = np.random.default_rng(0)
    values, window = torch.from_numpy(rng.standard_normal((400, NEURONS))).float(), np.arange(400) // 8
    assert beside_permuted(values, window, 0.9) == Undefined("only 0 edges in the group's graph")
    assert beside_permuted(values[:, :9], window, None) == Undefined("only 9 of the group's neurons vary")
