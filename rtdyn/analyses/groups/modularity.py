"""Spatial organisation: do a group's neurons form modules, and are they a module of the layer? (METHODS §6)"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.communities import equal_edges, group_modularity, modularity_reason, rewired_z
from rtdyn.analyses.groups.correlations import correlation
from rtdyn.analyses.groups.graph import THRESHOLD
from rtdyn.analyses.groups.layer_forms import LayerForms, layer_forms, moments_of_group
from rtdyn.analyses.groups.measure import (
    GroupValue,
    GroupValues,
    activations_by_half,
    measure_if_defined,
    rows_of_half,
    too_large,
)
from rtdyn.analyses.groups.permuted import beside_permuted, permuted_correlations
from rtdyn.analyses.groups.segregation import (
    mean_correlation,
    mean_correlation_reasons,
    segregation,
    segregation_reason,
)
from rtdyn.analyses.groups.set_sums import Layer, edge_counts, layer, set_sums
from rtdyn.analyses.statistics import Comparison
from rtdyn.analyses.threads import in_threads
from rtdyn.names import RANDOM
from rtdyn.undefined import Undefined

WHOLE_LAYER = ("segregation_q", "inside_share", "inside_weight_share", "correlation_within", "correlation_across")
Q_EXCESS = "q_excess"
PRESETS: Mapping[str, float | None] = {"q_threshold": THRESHOLD, "q_paper_code": None}
"""Least |r| of an edge, by metric."""

LOUVAIN_DRAWS = 199
"""Most sets of each null that Louvain's algorithm runs on."""
LARGEST_GRAPH = 512
"""Neurons of a group whose own graph is searched for communities."""
LARGEST_REWIRED = 64
"""Neurons of a group whose own graph is rewired."""


@dataclass(frozen=True)
class Modularity:
    """What `modularity` finds."""

    whole_layer: GroupValues
    """WHOLE_LAYER: each group as a community of the layer, and its mean correlations."""
    communities: GroupValues
    """Q_EXCESS: Louvain's Q of each group's own graph at the number of edges its nulls have too."""
    edges: Mapping[str, int | Undefined]
    """That number by group, the smaller of both halves'."""
    presets: Mapping[str, Mapping[str, GroupValue | Undefined]]
    """By metric of PRESETS and group: Q of its own graph, which no other density compares with, beside rewired graphs
    and those of permuted activations."""


def modularity(context: Context) -> Modularity:
    """Communities inside each group, and each group as a community of the whole layer, beside their nulls."""
    activations = list(activations_by_half(context))
    r = [correlation(of_half) for of_half in activations]
    layers, groups = [layer(of_half) for of_half in r], context.groups
    forms = layer_forms(layers)
    edges = {name: _equal_edges(r, group) for name, group in groups.items()}
    windows = [context.captured.positions.window[rows_of_half(context, half)] for half in (0, 1)]
    return Modularity(
        {name: _in_whole_layer(layers, forms, group) for name, group in groups.items()},
        {name: _communities(r, group, edges[name], context.seed) for name, group in groups.items()},
        {name: of_halves if isinstance(of_halves, Undefined) else min(of_halves) for name, of_halves in edges.items()},
        _presets(r, [_Measured(*half) for half in zip(activations, windows, strict=True)], groups, context.seed),
    )


def _in_whole_layer(
    layers: Sequence[Layer], forms: LayerForms | None, group: Group | Undefined
) -> Mapping[str, GroupValue | Undefined]:
    """WHOLE_LAYER of one group, in the graph of each half; moments over random sets are exact where known."""

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        sums = set_sums(layers[half], sets)
        apart, mean = segregation(sums), mean_correlation(sums)
        values = (apart.modularity, apart.inside_share, apart.inside_weight_share, mean.within, mean.across)
        return dict(zip(WHOLE_LAYER, values, strict=True))

    def reasons(half: int, members: np.ndarray) -> Mapping[str, Undefined | None]:
        sums = set_sums(layers[half], members[None])
        apart = segregation_reason(sums)
        within, across = mean_correlation_reasons(sums)
        return dict(zip(WHOLE_LAYER, (apart, apart, apart, within, across), strict=True))

    values = measure_if_defined(group, WHOLE_LAYER, statistic, reasons)
    if forms is not None and not isinstance(group, Undefined):
        for metric, (mean, sd) in moments_of_group(forms, group).items():
            values[metric] = _with_moments(values[metric], mean, sd)
    return values


def _with_moments(value: GroupValue | Undefined, mean: float, sd: float) -> GroupValue | Undefined:
    """The value, its random null's mean and deviation these in place of those of the sets drawn."""
    drawn = None if isinstance(value, Undefined) else value.nulls.get(RANDOM)
    if isinstance(value, Undefined) or drawn is None or isinstance(drawn, Undefined):
        return value
    return replace(value, nulls={**value.nulls, RANDOM: replace(drawn, null_mean=mean, null_sd=sd)})


def _communities(
    r: Sequence[Tensor], group: Group | Undefined, edges: Sequence[int] | Undefined, seed: int
) -> Mapping[str, GroupValue | Undefined]:
    """Q_EXCESS of one group. r: (F, F) of each half. edges: those compared on each half."""
    if isinstance(edges, Undefined):
        return {Q_EXCESS: edges}

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        return {Q_EXCESS: group_modularity(r[half], sets, edges=edges[half], seed=seed)}

    def reasons(half: int, members: np.ndarray) -> Mapping[str, Undefined | None]:
        return {Q_EXCESS: modularity_reason(r[half], members, edges=edges[half]) or _sparse(edges[half], len(members))}

    return measure_if_defined(group, (Q_EXCESS,), statistic, reasons, LOUVAIN_DRAWS)


def _sparse(edges: int, neurons: int) -> Undefined | None:
    """Why graphs of so few edges are not compared: they fall apart into small trees, whatever joins the neurons."""
    return Undefined(f"only {edges} edges are compared, fewer than the {neurons} neurons") if edges < neurons else None


def _equal_edges(r: Sequence[Tensor], group: Group | Undefined) -> list[int] | Undefined:
    """For each half measured, the number of edges at which the group's graph and its nulls' are compared."""
    if isinstance(group, Undefined):
        return group
    for members in reversed(group.members):
        large = too_large(members, LARGEST_GRAPH)
        if large is not None:
            return large
    edges = []
    for half in (0, 1):
        # the half measured is the one that did not choose
        chosen = 1 - half
        drawn = [sets[chosen][:LOUVAIN_DRAWS] for sets in group.sets.values() if not isinstance(sets, Undefined)]
        edges.append(equal_edges(edge_counts(r[half], np.concatenate([group.members[chosen][None], *drawn]))))
    return edges


@dataclass(frozen=True)
class _Measured:
    """One half's measured positions."""

    activations: Tensor
    """(N, F)."""
    window: np.ndarray
    """int (N,)."""


def _presets(
    r: Sequence[Tensor], halves: Sequence[_Measured], groups: Mapping[str, Group | Undefined], seed: int
) -> Mapping[str, Mapping[str, GroupValue | Undefined]]:
    """By metric of PRESETS and group, in as many threads as torch has. r: (F, F) of each of both halves."""
    values = in_threads(lambda group: _own_graphs(r, halves, group, seed), groups.values())
    return {metric: {name: of[metric] for name, of in zip(groups, values, strict=True)} for metric in PRESETS}


def _own_graphs(
    r: Sequence[Tensor], halves: Sequence[_Measured], group: Group | Undefined, seed: int
) -> Mapping[str, GroupValue | Undefined]:
    """By metric of PRESETS, of one group, whose activations are permuted once. r: (F, F) of each of both halves."""
    if isinstance(group, Undefined):
        return dict.fromkeys(PRESETS, group)
    why = too_large(group.members[0], LARGEST_REWIRED) or too_large(group.members[1], LARGEST_REWIRED)
    if why is not None:
        return dict.fromkeys(PRESETS, why)
    measured = []
    for half, members in enumerate(group.members):
        other = halves[1 - half]
        columns = other.activations[:, torch.from_numpy(members).to(other.activations.device)]
        permuted = permuted_correlations(columns, other.window, seed=seed)
        measured.append(_MeasuredGroup(r[1 - half], members, columns, other.window, permuted))
    return {metric: _own_graph(measured, threshold, seed) for metric, threshold in PRESETS.items()}


@dataclass(frozen=True)
class _MeasuredGroup:
    """What one half chose, on the other."""

    r: Tensor
    """(F, F)."""
    members: np.ndarray
    """(n,)."""
    activations: Tensor
    """(N, n)."""
    window: np.ndarray
    """int (N,)."""
    permuted: Sequence[Tensor]
    """(n, n) each, of `permuted_correlations`."""


def _own_graph(measured: Sequence[_MeasuredGroup], threshold: float | None, seed: int) -> GroupValue | Undefined:
    """Q of one group's own graph beside both of its nulls."""
    for of in measured:
        why = modularity_reason(of.r, of.members, threshold=threshold)
        if why is not None:
            return why
    rewired = [rewired_z(of.r, of.members[None], threshold=threshold, seed=seed) for of in measured]
    permuted = [
        beside_permuted(of.activations, of.window, threshold, seed=seed, permuted=of.permuted) for of in measured
    ]
    nulls = {
        "rewired": _of_both(
            [Comparison(float(h.null_mean[0]), float(h.null_sd[0]), float(h.p_value[0])) for h in rewired]
        ),
        "permuted": _of_both(permuted),
    }
    return GroupValue(
        float(np.mean([h.modularity[0] for h in rewired])), min(len(of.members) for of in measured), nulls
    )


def _of_both(halves: Sequence[Comparison | Undefined]) -> Comparison | Undefined:
    """The null of the mean over both halves, whose graphs are drawn each for itself; p by Bonferroni over them."""
    defined = []
    for half in halves:
        if isinstance(half, Undefined):
            return half
        defined.append(half)
    return Comparison(
        null_mean=float(np.mean([half.null_mean for half in defined])),
        null_sd=math.hypot(*(half.null_sd for half in defined)) / 2,
        p_value=min(1.0, 2 * min(half.p_value for half in defined)),
    )
