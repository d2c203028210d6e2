"""Is a group a module of the whole layer? Its edges and correlations inside against those to the rest (METHODS §6).

Newman's modularity of a partition is Q = Σ_c [in_c/2m − (Σ_{i∈c} k_i/2m)²], with k_i = Σ_j w_ij and 2m = Σ_i k_i. in_c
is the sum of w_ij over ordered pairs inside c. Here the partition of the layer's graph is {group, rest}.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.groups.graph import MIN_EDGES, MIN_NODES, few_vary
from rtdyn.analyses.groups.set_sums import SetSums
from rtdyn.counted import counted
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


def segregation(sums: SetSums) -> Segregation:
    """How far each of s sets is a block of its own in the graph of all neurons.

    With K the sum of k_i over the set and x the weight of edges that leave it, Q = 2·[K·(2m − K)/(2m)² − x/2m]. NaN
    where `segregation_reason` gives a reason.
    """
    strength, degree, total = sums.totals[0], sums.totals[1], sums.strength
    _, bad = _segregation_limits(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        leaving = strength - 2 * sums.inside[0]
        q = 2 * (strength * (total - strength) / total**2 - leaving / total)
        share = sums.inside[1] / (degree - sums.inside[1])
        weight_share = sums.inside[0] / (strength - sums.inside[0])
    return Segregation(*(np.where(bad, np.nan, v) for v in (q, share, weight_share)))


def segregation_reason(sums: SetSums) -> Undefined | None:
    """Why `segregation` is undefined for the first set that has none; None where all have one."""
    return _segregation_limits(sums)[0]


def _segregation_limits(sums: SetSums) -> tuple[Undefined | None, np.ndarray]:
    """Why the first set that is undefined is so, and which are, bool (s,)."""
    nodes = sums.nodes
    touching = (sums.totals[1] - sums.inside[1]).astype(np.int64)
    few_nodes, few_edges, no_rest = nodes < MIN_NODES, touching < MIN_EDGES, nodes == sums.varying
    bad = few_nodes | few_edges | no_rest
    if not bad.any():
        return None, bad
    first = int(bad.argmax())
    if few_nodes[first]:
        return few_vary(int(nodes[first])), bad
    if no_rest[first]:
        return NO_REST, bad
    return Undefined(f"only {counted(int(touching[first]), 'edge')} with an end in the group"), bad


def mean_correlation(sums: SetSums) -> MeanCorrelation:
    """Signed mean r inside each of s sets and between it and the other neurons.

    Within is NaN for under two varying neurons in the set, across for none there or none outside.
    """
    nodes = sums.nodes.astype(np.float64)
    pairs, across_pairs = nodes * (nodes - 1) / 2, nodes * (sums.varying - nodes)
    undefined = np.full(len(nodes), np.nan)
    return MeanCorrelation(
        np.divide(sums.inside[2], pairs, out=undefined.copy(), where=pairs > 0),
        np.divide(sums.totals[2] - 2 * sums.inside[2], across_pairs, out=undefined, where=across_pairs > 0),
    )


def mean_correlation_reasons(sums: SetSums) -> tuple[Undefined | None, Undefined | None]:
    """Why the first set has no mean correlation within, and none across; None where it has."""
    nodes = int(sums.nodes[0])
    within = few_vary(nodes) if nodes < 2 else None
    if nodes == 0:
        return within, few_vary(nodes)
    return within, NO_REST if nodes == sums.varying else None
