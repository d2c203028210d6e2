"""Statistics of groups of neurons as rows of metrics/: one row for each null a number is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from rtdyn.analyses.groups import dimensionality, modularity
from rtdyn.analyses.groups.choose import Group
from rtdyn.analyses.groups.measure import HIGH, LOW, GroupValue, Reasons, Statistic, _too_large, _undefined, measure
from rtdyn.analyses.groups.modularity import LARGEST_GRAPH, LARGEST_REWIRED, LOUVAIN_DRAWS, REWIRINGS, _equal_edges
from rtdyn.analyses.statistics import Comparison
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import RARE
from rtdyn.store.schema import Metric
from rtdyn.undefined import Undefined


def dimensionality_metrics(
    captured: Capture, halves: np.ndarray, groups: Mapping[str, Group | Undefined], layer: int
) -> list[Metric]:
    """Effective dimensionality of each group's activations at all measured positions. halves: (windows,)."""
    z = [dimensionality.standardised(captured.activations[rows])[0] for rows in _rows(captured, halves)]

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        found = dimensionality.dimensionality(z[half], sets)
        return {
            "d_eff": found.d_eff,
            "d_eff_share": found.d_eff_share,
            "participation_ratio": found.participation_ratio,
        }

    metrics = ("d_eff", "d_eff_share", "participation_ratio")

    def reasons(name: str, half: int, members: np.ndarray) -> Mapping[str, str | None]:
        live = int((z[half][:, torch.from_numpy(members)] != 0).any(0).sum())
        return dict.fromkeys(metrics, dimensionality.undefined(live, len(z[half])))

    return _group_metrics("dimensionality", groups, partial(_same, statistic), metrics, reasons, layer)


def modularity_metrics(
    captured: Capture, halves: np.ndarray, groups: Mapping[str, Group | Undefined], seed: int, layer: int
) -> list[Metric]:
    """Communities inside each group, and the group as a community of the whole layer. halves: (windows,)."""
    r = [modularity.correlation(captured.activations[rows]) for rows in _rows(captured, halves)]

    def whole_layer(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        apart, mean = modularity.segregation(r[half], sets), modularity.mean_correlation(r[half], sets)
        return {
            "segregation_q": apart.modularity,
            "inside_share": apart.inside_share,
            "inside_weight_share": apart.inside_weight_share,
            "correlation_within": mean.within,
            "correlation_across": mean.across,
        }

    edges = {name: _equal_edges(r, group) for name, group in groups.items() if not isinstance(group, Undefined)}

    def communities(name: str) -> Statistic:
        def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
            own = sets[:LOUVAIN_DRAWS]
            values = modularity.group_modularity(r[half], own, edges=edges[name][half], seed=seed)
            return {"q_excess": np.append(values, np.full(len(sets) - len(own), np.nan))}

        return statistic

    def no_rest(name: str, half: int, members: np.ndarray) -> Mapping[str, str | None]:
        apart = modularity.segregation_reason(r[half], members)
        within, across = modularity.mean_correlation_reasons(r[half], members)
        return dict(zip(whole, (apart, apart, apart, within, across), strict=True))

    def no_communities(name: str, half: int, members: np.ndarray) -> Mapping[str, str | None]:
        too_large = _too_large(members, LARGEST_GRAPH)
        return {"q_excess": too_large or modularity.modularity_reason(r[half], members, edges=edges[name][half])}

    whole = ("segregation_q", "inside_share", "inside_weight_share", "correlation_within", "correlation_across")
    return [
        *_group_metrics("modularity", groups, partial(_same, whole_layer), whole, no_rest, layer),
        *_group_metrics("modularity", groups, communities, ("q_excess",), no_communities, layer),
        *_unmatched_modularity(r, groups, seed, layer),
    ]


def _unmatched_modularity(
    r: list[np.ndarray], groups: Mapping[str, Group | Undefined], seed: int, layer: int
) -> list[Metric]:
    """Q of each group's own graph by both presets, which no other density compares with; its null is rewiring."""

    def one(preset: str, threshold: float | None, name: str) -> Metric:
        group = groups[name]
        row = partial(Metric, "modularity", preset, token_class=RARE, group=name, layer=layer)
        if isinstance(group, Undefined):
            return row(value=None, reason=group.reason)
        own = [(r[1 - half], members) for half, members in enumerate(group.members)]
        reasons = [
            _too_large(m, LARGEST_REWIRED) or modularity.modularity_reason(there, m, threshold=threshold)
            for there, m in own
        ]
        if any(reasons):
            return row(value=None, reason=next(filter(None, reasons)))
        found = [
            modularity.rewired_z(there, m[None], threshold=threshold, draws=REWIRINGS, seed=seed) for there, m in own
        ]
        return row(
            value=float(np.mean([f.modularity[0] for f in found])),
            null="rewired",
            null_mean=float(np.mean([f.null_mean[0] for f in found])),
            null_sd=math.hypot(*(float(f.null_sd[0]) for f in found)) / 2,
            # Bonferroni over the two halves, whose graphs are rewired each for itself
            p_value=min(1.0, 2 * min(float(f.p_value[0]) for f in found)),
            n=min(map(len, group.members)),
        )

    presets = {"q_threshold": modularity.THRESHOLD, "q_paper_code": None}
    wanted = [(preset, threshold, name) for preset, threshold in presets.items() for name in groups]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(one, *zip(*wanted, strict=True)))


def _same(statistic: Statistic, name: str) -> Statistic:
    return statistic


def _rows(captured: Capture, halves: np.ndarray) -> list[torch.Tensor]:
    """Measured positions of each half of the windows."""
    half = halves[captured.positions.window]
    return [torch.from_numpy(np.flatnonzero(half == h)).to(captured.activations.device) for h in (0, 1)]


def _group_metrics(
    analysis: str,
    groups: Mapping[str, Group | Undefined],
    statistic: Callable[[str], Statistic],
    metrics: tuple[str, ...],
    reasons: Reasons,
    layer: int,
) -> list[Metric]:
    """Every metric of every group beside its nulls; groups are by name, or why there is none.

    statistic: by a group's name.
    """

    def of_group(name: str) -> list[Metric]:
        group = groups[name]
        why = dict.fromkeys(metrics, group.reason) if isinstance(group, Undefined) else _undefined(name, group, reasons)
        row = partial(Metric, analysis, token_class=RARE, group=name, layer=layer, value=None)
        rows = [row(metric=metric, reason=why[metric]) for metric in metrics if metric in why]
        if isinstance(group, Undefined) or len(rows) == len(metrics):
            return rows
        values = measure(group, statistic(name))
        for metric in (m for m in metrics if m not in why):
            low, high = (values[metric + end].value if metric + end in values else None for end in (LOW, HIGH))
            rows += with_nulls(analysis, metric, name, values[metric], (low, high), layer)
        return rows

    return [row for name in groups for row in of_group(name)]


def with_nulls(
    analysis: str,
    metric: str,
    group: str,
    value: GroupValue,
    interval: tuple[float | None, float | None],
    layer: int,
) -> list[Metric]:
    """A row for each null of a group's number, which says why where there is none."""
    row = partial(Metric, analysis, metric, token_class=RARE, group=group, layer=layer, n=value.n)
    if not math.isfinite(value.value):
        return [row(value=None, reason="it is undefined for the group on one half of the windows")]
    low, high = interval
    rows = []
    for null, against in value.nulls.items():
        with_value = partial(row, value=value.value, null=null, ci_low=low, ci_high=high)
        if isinstance(against, Comparison):
            rows.append(with_value(null_mean=against.null_mean, null_sd=against.null_sd, p_value=against.p_value))
        else:
            rows.append(with_value(reason=against.reason))
    return rows


def matching_metrics(groups: Mapping[str, Group | Undefined], layer: int) -> list[Metric]:
    """Size of each group, and the share of its matched sets that are its own members."""
    rows = []
    for name, group in groups.items():
        row = partial(Metric, "groups", token_class=RARE, group=name, layer=layer)
        if isinstance(group, Undefined):
            rows += [row(metric=metric, value=None, reason=group.reason) for metric in ("size", "matched_own_share")]
            continue
        rows.append(row(metric="size", value=float(np.mean([len(m) for m in group.members]))))
        rows.append(row(metric="matched_own_share", value=group.own_share))
    return rows
