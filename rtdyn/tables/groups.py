"""Statistics of groups of neurons as rows of metrics/: one row for each null a number is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.dimensionality import Dimensionality
from rtdyn.analyses.groups.measure import UNDEFINED_ON_A_HALF, GroupValue, GroupValues
from rtdyn.analyses.groups.modularity import Modularity
from rtdyn.analyses.statistics import Comparison
from rtdyn.names import RARE
from rtdyn.store.schema import Metric
from rtdyn.tables.step_rows import StepRows
from rtdyn.undefined import Undefined


def dimensionality_rows(result: Dimensionality, context: Context) -> StepRows:
    """A row for each group, metric and null."""
    return StepRows(group_rows("dimensionality", result.groups, context.layer))


def modularity_rows(result: Modularity, context: Context) -> StepRows:
    """The whole layer's rows, then those of communities at equal numbers of edges, then those beside rewired graphs.

    `q_excess_edges` is the number of edges at which `q_excess` compares.
    """
    by_group = (
        result.whole_layer,
        result.communities,
        *({name: {metric: value} for name, value in values.items()} for metric, values in result.presets.items()),
    )
    rows = [row for values in by_group for row in group_rows("modularity", values, context.layer)]
    for group, edges in result.edges.items():
        row = partial(Metric, "modularity", "q_excess_edges", token_class=RARE, group=group, layer=context.layer)
        rows.append(row(value=None, reason=edges.reason) if isinstance(edges, Undefined) else row(value=float(edges)))
    return StepRows(rows)


def group_rows(analysis: str, values: GroupValues, layer: int) -> list[Metric]:
    """Every metric of every group beside its nulls, or why there is none."""
    rows = []
    for group, by_metric in values.items():
        for metric, value in by_metric.items():
            if isinstance(value, Undefined):
                row = partial(Metric, analysis, metric, token_class=RARE, group=group, layer=layer)
                rows.append(row(value=None, reason=value.reason))
            else:
                rows += with_nulls(analysis, metric, group, value, value.interval, layer)
    return rows


def with_nulls(
    analysis: str,
    metric: str,
    group: str,
    value: GroupValue,
    interval: tuple[float | None, float | None],
    layer: int,
    clusters: int | None = None,
) -> list[Metric]:
    """A row for each null of a group's number, which says why where there is none.

    clusters: the independent pieces of text that the interval is from, if it is from text.
    """
    row = partial(Metric, analysis, metric, token_class=RARE, group=group, layer=layer, n=value.n)
    if not math.isfinite(value.value):
        return [row(value=None, reason=UNDEFINED_ON_A_HALF.reason)]
    low, high = interval
    rows = []
    for null, against in value.nulls.items():
        with_value = partial(row, value=value.value, null=null, ci_low=low, ci_high=high, clusters=clusters)
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
        rows.append(row(metric="size", value=group.size))
        rows.append(row(metric="matched_own_share", value=group.own_share))
    return rows
