"""Groups beside the rest of the layer: against networkx, closed forms, and sums by products and by loops."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.graphs import (
    as_networkx,
    compared,
    correlation,
    factors,
    from_weights,
    mean_correlation,
    segregation,
    sums_of,
)
from support.random_sets import random_sets

from rtdyn.analyses.groups import set_sums
from rtdyn.analyses.groups.graph import least_weight
from rtdyn.analyses.groups.set_sums import inside_by_product


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
