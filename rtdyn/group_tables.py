"""Statistics of groups of neurons as rows of metrics/: one row for each null a number is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from rtdyn.analyses import dimensionality, heavytail, modularity
from rtdyn.analyses.groups import Group, GroupValue, Statistic, measure
from rtdyn.analyses.nulls import Comparison
from rtdyn.capture import Capture
from rtdyn.store import Metric
from rtdyn.tables import PRIMARY

LOW, HIGH = ":low", ":high"
"""What a statistic calls the ends of a metric's interval."""
LOUVAIN_DRAWS = 199
"""Sets of each null that Louvain's algorithm runs on."""
REWIRINGS = 99
"""Rewired graphs of each half, enough for p = 0.04 after Bonferroni's correction."""
LARGEST_GRAPH = 512
"""Neurons of a group whose own graph is searched for communities."""
LARGEST_REWIRED = 64
"""Neurons of a group whose own graph is rewired."""
LARGEST_SPECTRUM = 1024
"""Neurons of a group whose weights' eigenvalues are computed, hundreds of times for its nulls."""

Reasons = Callable[[str, int, np.ndarray], Mapping[str, str | None]]
"""From a group's name, the half measured and its members to why a metric has no value, as far as that is known."""


def dimensionality_metrics(
    captured: Capture, halves: np.ndarray, groups: Mapping[str, Group | str], layer: int
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
    captured: Capture, halves: np.ndarray, groups: Mapping[str, Group | str], seed: int, layer: int
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

    edges = {name: _equal_edges(r, group) for name, group in groups.items() if not isinstance(group, str)}

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


def _equal_edges(r: list[np.ndarray], group: Group) -> list[int]:
    """For each half measured, the number of edges at which the group's graph and its nulls' are compared."""
    edges = []
    for half in (0, 1):
        # the half measured is the one that did not choose
        chosen = 1 - half
        drawn = [sets[chosen][:LOUVAIN_DRAWS] for sets in group.sets.values() if not isinstance(sets, str)]
        counts = modularity.edge_counts(r[half], np.concatenate([group.members[chosen][None], *drawn]))
        edges.append(modularity.equal_edges(counts))
    return edges


def _unmatched_modularity(
    r: list[np.ndarray], groups: Mapping[str, Group | str], seed: int, layer: int
) -> list[Metric]:
    """Q of each group's own graph by both presets, which no other density compares with; its null is rewiring."""

    def one(preset: str, threshold: float | None, name: str) -> Metric:
        group = groups[name]
        row = partial(Metric, "modularity", preset, token_class=PRIMARY, group=name, layer=layer)
        if isinstance(group, str):
            return row(value=None, reason=group)
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


def heavytail_metrics(
    captured: Capture, groups: Mapping[str, Group | str], layer: int, weightwatcher: bool = True
) -> list[Metric]:
    """Hill's α of each group's input weights, and weightwatcher's numbers for the layer's and the groups' matrices."""
    rows = []
    matrices = captured.anatomy.input_rows
    for matrix, weights in matrices.items():
        names = _hill_names(matrices, matrix)
        statistic = partial(_hill, weights, names)
        metrics = tuple(names.values())
        rows += _group_metrics(
            "heavytail", groups, partial(_same, statistic), metrics, partial(_no_hill, weights, names), layer
        )
    rows += layer_heavytail_metrics(matrices, captured.anatomy.output_rows, layer, weightwatcher)
    if weightwatcher:
        rows += _weightwatcher_of_groups(captured, groups, layer)
    return rows


def layer_heavytail_metrics(
    inputs: Mapping[str, torch.Tensor], output: torch.Tensor, layer: int, weightwatcher: bool = True
) -> list[Metric]:
    """Hill's α of all the layer's input rows, with its interval, and weightwatcher's numbers for its matrices.

    inputs: by name, (F, d). output: (F, d). They need no text: a layer has no null.
    """
    rows = []
    for matrix, weights in inputs.items():
        found = heavytail.spectra(weights, np.arange(len(weights))[None])
        for rule, name in _hill_names(inputs, matrix).items():
            row = partial(Metric, "heavytail", name, layer=layer)
            why = heavytail.undefined(found, rule)[0]
            if why is not None:
                rows.append(row(value=None, reason=why))
                continue
            hill = heavytail.hill_of_spectra(found, rule)
            rows.append(
                row(value=float(hill.alpha[0]), ci_low=float(hill.low[0]), ci_high=float(hill.high[0]), n=len(weights))
            )
    if weightwatcher:
        for matrix, weights in {**inputs, "out": output}.items():
            rows += _weightwatcher_rows(matrix, heavytail.weightwatcher_metrics(weights), layer)
    return rows


def _hill_names(matrices: Mapping[str, torch.Tensor], matrix: str) -> dict[str, str]:
    suffix = "" if len(matrices) == 1 else f"_{matrix}"
    return {rule: f"hill_alpha_{rule.replace('-', '_')}{suffix}" for rule in heavytail.RULES}


def _same(statistic: Statistic, name: str) -> Statistic:
    return statistic


def _hill(weights: torch.Tensor, names: Mapping[str, str], half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
    found = heavytail.spectra(weights, sets)
    values: dict[str, np.ndarray] = {}
    for rule, name in names.items():
        hill = heavytail.hill_of_spectra(found, rule, min_k=_least(rule))
        values |= {name: hill.alpha, name + LOW: hill.low, name + HIGH: hill.high}
    return values


def _too_large(members: np.ndarray, largest: int) -> str | None:
    return f"a group of {len(members):,} neurons, over {largest:,}" if len(members) > largest else None


def _no_hill(
    weights: torch.Tensor, names: Mapping[str, str], group: str, half: int, members: np.ndarray
) -> Mapping[str, str | None]:
    if len(members) > LARGEST_SPECTRUM:
        return dict.fromkeys(names.values(), _too_large(members, LARGEST_SPECTRUM))
    found = heavytail.spectra(weights, members[None])
    return {name: heavytail.undefined(found, rule, min_k=_least(rule))[0] for rule, name in names.items()}


def _least(rule: str) -> int:
    """The shortest tail: the papers' figure has one of three for 32 neurons."""
    return 1 if rule == heavytail.TENTH else heavytail.MIN_K


def _weightwatcher_rows(
    matrix: str, found: Mapping[str, float | str], layer: int, group: str | None = None
) -> list[Metric]:
    token_class = None if group is None else PRIMARY
    row = partial(Metric, "heavytail", layer=layer, group=group, token_class=token_class)
    return [
        row(metric=f"ww_{metric}_{matrix}", value=None, reason=value)
        if isinstance(value, str)
        else row(metric=f"ww_{metric}_{matrix}", value=value)
        for metric, value in found.items()
    ]


def _weightwatcher_of_groups(captured: Capture, groups: Mapping[str, Group | str], layer: int) -> list[Metric]:
    rows = []
    for matrix, weights in captured.anatomy.input_rows.items():
        for name, group in groups.items():
            if isinstance(group, str):
                found: dict[str, float | str] = dict.fromkeys(heavytail.WEIGHTWATCHER_METRICS, group)
            else:
                halves = [weights[torch.from_numpy(members)] for members in group.members]
                found = _mean_of_halves([heavytail.weightwatcher_metrics(own) for own in halves])
            rows += _weightwatcher_rows(matrix, found, layer, name)
    return rows


def _mean_of_halves(found: list[dict[str, float | str]]) -> dict[str, float | str]:
    result: dict[str, float | str] = {}
    for metric, first in found[0].items():
        second = found[1][metric]
        result[metric] = (
            first if isinstance(first, str) else second if isinstance(second, str) else (first + second) / 2
        )
    return result


def _rows(captured: Capture, halves: np.ndarray) -> list[torch.Tensor]:
    """Measured positions of each half of the windows."""
    half = halves[captured.positions.window]
    return [torch.from_numpy(np.flatnonzero(half == h)).to(captured.activations.device) for h in (0, 1)]


def _group_metrics(
    analysis: str,
    groups: Mapping[str, Group | str],
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
        why = dict.fromkeys(metrics, group) if isinstance(group, str) else _undefined(name, group, reasons)
        row = partial(Metric, analysis, token_class=PRIMARY, group=name, layer=layer, value=None)
        rows = [row(metric=metric, reason=why[metric]) for metric in metrics if metric in why]
        if isinstance(group, str) or len(rows) == len(metrics):
            return rows
        values = measure(group, statistic(name))
        for metric in (m for m in metrics if m not in why):
            low, high = (values[metric + end].value if metric + end in values else None for end in (LOW, HIGH))
            rows += with_nulls(analysis, metric, name, values[metric], (low, high), layer)
        return rows

    return [row for name in groups for row in of_group(name)]


def _undefined(name: str, group: Group, reasons: Reasons) -> dict[str, str]:
    """By metric, why it has no value on one of the halves."""
    found = [reasons(name, 1 - half, members) for half, members in enumerate(group.members)]
    return {metric: why for by_metric in found for metric, why in by_metric.items() if why is not None}


def with_nulls(
    analysis: str,
    metric: str,
    group: str,
    value: GroupValue,
    interval: tuple[float | None, float | None],
    layer: int,
) -> list[Metric]:
    """A row for each null of a group's number, which says why where there is none."""
    row = partial(Metric, analysis, metric, token_class=PRIMARY, group=group, layer=layer, n=value.n)
    if not math.isfinite(value.value):
        return [row(value=None, reason="it is undefined for the group on one half of the windows")]
    low, high = interval
    rows = []
    for null, against in value.nulls.items():
        with_value = partial(row, value=value.value, null=null, ci_low=low, ci_high=high)
        if isinstance(against, Comparison):
            rows.append(with_value(null_mean=against.null_mean, null_sd=against.null_sd, p_value=against.p_value))
        else:
            rows.append(with_value(reason=against))
    return rows


def matching_metrics(groups: Mapping[str, Group | str], layer: int) -> list[Metric]:
    """Size of each group, and the share of its matched sets that are its own members."""
    rows = []
    for name, group in groups.items():
        row = partial(Metric, "groups", token_class=PRIMARY, group=name, layer=layer)
        if isinstance(group, str):
            rows += [row(metric=metric, value=None, reason=group) for metric in ("size", "matched_own_share")]
            continue
        rows.append(row(metric="size", value=float(np.mean([len(m) for m in group.members]))))
        rows.append(row(metric="matched_own_share", value=group.own_share))
    return rows
