"""A statistic of groups, each group chosen on one half of the windows and measured on the other (METHODS §4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.groups.choose import Group
from rtdyn.analyses.regimes.contrast import contrast
from rtdyn.analyses.statistics import Comparison, compare
from rtdyn.names import SELECTED
from rtdyn.undefined import Undefined

Statistic = Callable[[int, np.ndarray], Mapping[str, np.ndarray]]
"""From a half of the windows and sets (s, n) to values (s,) by metric, NaN where undefined."""


@dataclass(frozen=True)
class GroupValue:
    """A statistic of a group, the mean over both ways of splitting, and its nulls."""

    value: float
    n: int
    """Neurons, the smaller half's choice."""
    nulls: Mapping[str, Comparison | Undefined]


def measure(group: Group, statistic: Statistic) -> dict[str, GroupValue]:
    """Every metric of `statistic` for the group, each half's choice measured on the other half; NaN where undefined."""
    values = [statistic(1 - half, own[None]) for half, own in enumerate(group.members)]
    nulls: dict[str, dict[str, np.ndarray] | Undefined] = {}
    for null, sets in group.sets.items():
        if isinstance(sets, Undefined):
            nulls[null] = sets
            continue
        drawn = [statistic(1 - half, own) for half, own in enumerate(sets)]
        nulls[null] = {metric: (drawn[0][metric] + drawn[1][metric]) / 2 for metric in drawn[0]}
    result = {}
    for metric in values[0]:
        value = float((values[0][metric][0] + values[1][metric][0]) / 2)
        against = {
            null: drawn if isinstance(drawn, Undefined) else _compared(null, value, drawn[metric], group.overlap)
            for null, drawn in nulls.items()
        }
        result[metric] = GroupValue(value, min(map(len, group.members)), against)
    return result


def _compared(null: str, value: float, drawn: np.ndarray, overlap: float) -> Comparison | Undefined:
    # pseudo-classes share positions, and the sets they select are more alike than independent ones
    return contrast(value, drawn, overlap) if null == SELECTED else compare(value, drawn)


LOW, HIGH = ":low", ":high"
"""What a statistic calls the ends of a metric's interval."""


Reasons = Callable[[str, int, np.ndarray], Mapping[str, str | None]]
"""From a group's name, the half measured and its members to why a metric has no value, as far as that is known."""


def _too_large(members: np.ndarray, largest: int) -> str | None:
    return f"a group of {len(members):,} neurons, over {largest:,}" if len(members) > largest else None


def _undefined(name: str, group: Group, reasons: Reasons) -> dict[str, str]:
    """By metric, why it has no value on one of the halves."""
    found = [reasons(name, 1 - half, members) for half, members in enumerate(group.members)]
    return {metric: why for by_metric in found for metric, why in by_metric.items() if why is not None}
