"""A statistic of groups, each group chosen on one half of the windows and measured on the other (METHODS §4).

Sets of a null are measured as far as p needs them (`sequential.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.sequential import batches, compare_in_turn, settled
from rtdyn.analyses.regimes.contrast import contrast
from rtdyn.analyses.statistics import Comparison
from rtdyn.names import SELECTED
from rtdyn.undefined import Undefined

LOW, HIGH = ":low", ":high"
"""What a statistic adds to a metric's name for the ends of its interval."""

Statistic = Callable[[int, np.ndarray], Mapping[str, np.ndarray]]
"""From a half of the windows and sets (s, n) to values (s,) by metric, NaN where undefined."""

Reasons = Callable[[int, np.ndarray], Mapping[str, Undefined | None]]
"""From the half measured and a group's members (n,) to why a metric has no value, as far as that is known."""


@dataclass(frozen=True)
class GroupValue:
    """A statistic of a group, the mean over both ways of splitting, and its nulls."""

    value: float
    n: int
    """Neurons, the smaller half's choice."""
    nulls: Mapping[str, Comparison | Undefined]
    interval: tuple[float | None, float | None] = (None, None)
    """95 %, the means of both halves' ends, where the statistic has one."""


UNDEFINED_ON_A_HALF = Undefined("it is undefined for the group on one half of the windows")

GroupValues = Mapping[str, Mapping[str, GroupValue | Undefined]]
"""By group and metric; the metrics that cannot be measured come first."""


def measure(group: Group, statistic: Statistic, most: int | None = None) -> dict[str, GroupValue]:
    """Every metric of `statistic` for the group, each half's choice measured on the other half; NaN where undefined.

    most: sets of each null that may be measured, None for all.
    """
    values = [statistic(1 - half, members[None]) for half, members in enumerate(group.members)]
    means = {metric: float((values[0][metric][0] + values[1][metric][0]) / 2) for metric in values[0]}
    of_metrics = {metric: value for metric, value in means.items() if not metric.endswith((LOW, HIGH))}
    drawn = _drawn(group.sets, statistic, of_metrics, most)
    result = {}
    for metric, value in of_metrics.items():
        against = {
            null: sets if isinstance(sets, Undefined) else _compared(null, value, drawn[null][metric], group.overlap)
            for null, sets in group.sets.items()
        }
        interval = (means.get(metric + LOW), means.get(metric + HIGH))
        result[metric] = GroupValue(value, min(map(len, group.members)), against, interval)
    return result


def _drawn(
    nulls: Mapping[str, tuple[np.ndarray, np.ndarray] | Undefined],
    statistic: Statistic,
    values: Mapping[str, float],
    most: int | None,
) -> dict[str, dict[str, np.ndarray]]:
    """By null, each metric of its sets (s, n), chosen on either half, in their order until every p is settled.

    The next sets of all nulls that are not settled are measured in one call.
    """
    left = {null: sets for null, sets in nulls.items() if not isinstance(sets, Undefined)}
    drawn = {null: {metric: np.empty(0) for metric in values} for null in left}
    longest = max((len(sets[0]) for sets in left.values()), default=0)
    for batch in batches(min(longest, most or longest)):
        left = {null: sets for null, sets in left.items() if len(sets[0]) > batch.start}
        first, second = (
            _by_null(statistic, 1 - half, {null: sets[half][batch] for null, sets in left.items()}) for half in (0, 1)
        )
        for null in list(left):
            drawn[null] = {
                metric: np.append(so_far, (first[null][metric] + second[null][metric]) / 2)
                for metric, so_far in drawn[null].items()
            }
            if all(settled(value, drawn[null][metric]) for metric, value in values.items()):
                del left[null]
        if not left:
            break
    return drawn


def _by_null(statistic: Statistic, half: int, sets: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The statistic of each null's sets (s, n), of those of one size together."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for size in dict.fromkeys(of_null.shape[1] for of_null in sets.values()):
        together = {null: of_null for null, of_null in sets.items() if of_null.shape[1] == size}
        found = statistic(half, np.concatenate(list(together.values())))
        ends = np.cumsum([len(of_null) for of_null in together.values()])[:-1]
        parts = {metric: np.split(values, ends) for metric, values in found.items()}
        result |= {null: {m: of[k] for m, of in parts.items()} for k, null in enumerate(together)}
    return result


def measure_if_defined(
    group: Group | Undefined,
    metrics: tuple[str, ...],
    statistic: Statistic,
    reasons: Reasons,
    most: int | None = None,
) -> dict[str, GroupValue | Undefined]:
    """Each of the metrics of `statistic` for the group, or why it has no value on one of the halves."""
    if isinstance(group, Undefined):
        return dict.fromkeys(metrics, group)
    by_half = [reasons(1 - half, members) for half, members in enumerate(group.members)]
    why = {metric: reason for of_half in by_half for metric, reason in of_half.items() if reason is not None}
    result: dict[str, GroupValue | Undefined] = {metric: why[metric] for metric in metrics if metric in why}
    if len(result) == len(metrics):
        return result
    values = measure(group, statistic, most)
    for metric in (m for m in metrics if m not in why):
        value = values[metric]
        result[metric] = value if math.isfinite(value.value) else UNDEFINED_ON_A_HALF
    return result


def _compared(null: str, value: float, drawn: np.ndarray, overlap: float) -> Comparison | Undefined:
    # pseudo-classes share positions, and the sets they select are more alike than independent ones
    return contrast(value, drawn, overlap, compare_in_turn) if null == SELECTED else compare_in_turn(value, drawn)


def too_large(members: np.ndarray, largest: int) -> Undefined | None:
    """Why a group (n,) of over `largest` neurons is not measured; None for others."""
    return Undefined(f"a group of {len(members):,} neurons, over {largest:,}") if len(members) > largest else None


def activations_by_half(context: Context) -> Iterator[Tensor]:
    """float32 (N_h, F) for each half h of the windows: activations at its measured positions."""
    activations = context.captured.activations
    for half in (0, 1):
        yield activations[torch.from_numpy(rows_of_half(context, half)).to(activations.device)]


def rows_of_half(context: Context, half: int) -> np.ndarray:
    """int64 (N_h,): the measured positions that lie in one half of the windows."""
    return np.flatnonzero(context.halves[context.captured.positions.window] == half)
