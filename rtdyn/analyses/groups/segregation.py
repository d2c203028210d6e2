"""Is a group a module of the whole layer? Its edges and correlations inside against those to the rest (METHODS §6).

With k_i = Σ_j w_ij and 2m = Σ_i k_i, Newman's modularity of a partition is Q = Σ_c [in_c/2m − (Σ_{i∈c} k_i/2m)²], in_c
being the sum of w_ij over ordered pairs inside c; here the partition of the layer's graph is {group, rest}.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.groups.graph import MIN_EDGES, MIN_NODES, THRESHOLD, checked_sets, few_vary, least_weight
from rtdyn.analyses.kernels import graphs
from rtdyn.undefined import Undefined

NO_REST = Undefined("no varying neuron lies outside the group")


@dataclass(frozen=True)
class Segregation:
    """Each set in the graph of all F neurons; float64 (s,), NaN where undefined."""

    modularity: np.ndarray
    """Newman's weighted Q of the partition {set, rest}: above 0 where the set holds together more than degrees say."""
    inside_share: np.ndarray
    """Share of the edges with an end in the set that have both ends there."""
    inside_weight_share: np.ndarray
    """The same share of their weights."""


@dataclass(frozen=True)
class MeanCorrelation:
    """Signed mean Pearson r of each set; float64 (s,), NaN where undefined."""

    within: np.ndarray
    """Over pairs inside the set."""
    across: np.ndarray
    """Over pairs of a neuron inside and one outside."""


def segregation(r: np.ndarray, sets: np.ndarray, *, threshold: float | None = THRESHOLD) -> Segregation:
    """How far each set of sets (s, n) is a block of its own in the graph of all F neurons of r (F, F).

    With K the sum of k_i over the set and x the weight of edges that leave it, Q = 2·[K·(2m − K)/(2m)² − x/2m]. NaN
    where `segregation_reason` gives a reason. Takes F² + s·n² steps and no memory to speak of. Raises ValueError for
    sets that are no sets of neurons.
    """
    sets = checked_sets(r, sets)
    least = least_weight(threshold)
    totals = graphs.totals(r, least)
    inside = graphs.inside(r, sets, least)
    strength, degree = totals[0][sets].sum(1), totals[1][sets].sum(1)
    total = totals[0].sum()
    _, bad = _segregation_limits(r, sets, totals, inside)
    with np.errstate(divide="ignore", invalid="ignore"):
        leaving = strength - 2 * inside[0]
        q = 2 * (strength * (total - strength) / total**2 - leaving / total)
        share = inside[1] / (degree - inside[1])
        weight_share = inside[0] / (strength - inside[0])
    return Segregation(*(np.where(bad, np.nan, v) for v in (q, share, weight_share)))


def segregation_reason(r: np.ndarray, members: np.ndarray, *, threshold: float | None = THRESHOLD) -> Undefined | None:
    """Why `segregation` is undefined for `members` (n,) in r (F, F); None where it is not."""
    sets = checked_sets(r, members[None])
    least = least_weight(threshold)
    inside = graphs.inside(r, sets, least)
    return _segregation_limits(r, sets, graphs.totals(r, least), inside)[0]


def _segregation_limits(
    r: np.ndarray, sets: np.ndarray, totals: np.ndarray, inside: np.ndarray
) -> tuple[Undefined | None, np.ndarray]:
    """Why the first set that is undefined is so, and which are, bool (s,); totals (3, F), inside (3, s)."""
    varying = ~np.isnan(r.diagonal())
    nodes = varying[sets].sum(1)
    touching = (totals[1][sets].sum(1) - inside[1]).astype(np.int64)
    few_nodes, few_edges, no_rest = nodes < MIN_NODES, touching < MIN_EDGES, nodes == varying.sum()
    bad = few_nodes | few_edges | no_rest
    if not bad.any():
        return None, bad
    first = int(bad.argmax())
    if few_nodes[first]:
        return few_vary(int(nodes[first])), bad
    if no_rest[first]:
        return NO_REST, bad
    return Undefined(f"only {touching[first]} edges have an end in the group"), bad


def mean_correlation(r: np.ndarray, sets: np.ndarray) -> MeanCorrelation:
    """Signed mean r inside each set of sets (s, n) and between it and the other neurons of r (F, F).

    Within is NaN for under two varying neurons in the set, across for none there or none outside. Raises ValueError
    for sets that are no sets of neurons.
    """
    sets = checked_sets(r, sets)
    varying = ~np.isnan(r.diagonal())
    nodes = varying[sets].sum(1).astype(np.float64)
    within_sum = graphs.inside(r, sets, least_weight(None))[2]
    across_sum = graphs.totals(r, least_weight(None))[2][sets].sum(1) - 2 * within_sum
    pairs, across_pairs = nodes * (nodes - 1) / 2, nodes * (varying.sum() - nodes)
    undefined = np.full(len(sets), np.nan)
    return MeanCorrelation(
        np.divide(within_sum, pairs, out=undefined.copy(), where=pairs > 0),
        np.divide(across_sum, across_pairs, out=undefined, where=across_pairs > 0),
    )


def mean_correlation_reasons(r: np.ndarray, members: np.ndarray) -> tuple[Undefined | None, Undefined | None]:
    """Why `members` (n,) of r (F, F) have no mean correlation within, and none across; None where they have."""
    members = checked_sets(r, members[None])[0]
    varying = ~np.isnan(r.diagonal())
    nodes, outside = int(varying[members].sum()), int(varying.sum() - varying[members].sum())
    within = few_vary(nodes) if nodes < 2 else None
    if nodes == 0:
        return within, few_vary(nodes)
    return within, NO_REST if outside == 0 else None
