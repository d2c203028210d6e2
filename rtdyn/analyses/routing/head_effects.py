"""Effects of ablated heads on groups of neurons, each half's choice measured on the other half (METHODS §4, §7).

Of a group's activations a, which become a': Σ|Δa| (`paper-code`), Σ|Δa| / Σ|a|, and signed (Σ|a'| − Σ|a|) / Σ|a|.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.measure import GroupValue, measure
from rtdyn.analyses.routing.head_ablation import AblationSums, HeadAblation
from rtdyn.analyses.statistics import jackknife_se
from rtdyn.intervals import t_interval
from rtdyn.undefined import Undefined

STRONGEST, LAYER = "strongest", "layer"


@dataclass(frozen=True)
class GroupEffects:
    """Effects of a layer's ablations, its H heads and then all, on one group; float64 (H + 1,)."""

    total: np.ndarray
    """Σ|Δa| over the class's positions and the group's neurons (`paper-code`)."""
    share: np.ndarray
    """Σ|Δa| / Σ|a|."""
    signed: np.ndarray
    """(Σ|a'| − Σ|a|) / Σ|a|."""
    signed_se: np.ndarray
    """Of `signed`, leaving out a cluster at a time; NaN where one alone holds all of the activation."""
    clusters: int
    """Independent pieces of text that hold the positions."""


@dataclass(frozen=True)
class SignedEffect:
    """A signed effect on a group, the mean over both ways of splitting, beside its nulls."""

    value: GroupValue
    interval: tuple[float | None, float | None]
    """95 %; (None, None) without a standard error."""
    clusters: int
    """Independent pieces of text that it is from, both halves'."""


@dataclass(frozen=True)
class SplitEffects:
    """What ablating one layer's H heads does to a group at a class's positions, the mean over both splits."""

    strongest: SignedEffect
    """Of the head that is strongest where the group was chosen, positive if it has the same sign there."""
    layer: SignedEffect
    """Of all heads together."""
    signed: np.ndarray
    """float64 (H,): by head, as `GroupEffects` has it; so are the next two."""
    share: np.ndarray
    total: np.ndarray


def halved_groups(groups: Mapping[str, Group | Undefined]) -> dict[str, np.ndarray]:
    """The members int64 (n,) that each half chose, by `<name>@<half>`."""
    return {
        _halved(name, half): members
        for name, group in groups.items()
        if not isinstance(group, Undefined)
        for half, members in enumerate(group.members)
    }


def _halved(name: str, half: int) -> str:
    return f"{name}@{half}"


def effects_by_class(
    ablation: HeadAblation, groups: Mapping[str, Group | Undefined], halves: np.ndarray, cluster: np.ndarray
) -> dict[str, dict[str, SplitEffects | Undefined]]:
    """By class and group, the effects of one layer's heads, or why there are none.

    ablation: of `halved_groups`, the parts of its sums being the halves. halves: int64 (windows,), 0 or 1. cluster:
    int64 (windows,), the independent piece of text that each window is of.
    """

    def of_group(sums: AblationSums, name: str, group: Group | Undefined) -> SplitEffects | Undefined:
        if isinstance(group, Undefined):
            return group
        return split_effects(sums, name, group, halves, cluster) if ablation.structural is None else ablation.structural

    return {
        token_class: {name: of_group(sums, name, group) for name, group in groups.items()}
        for token_class, sums in ablation.classes.items()
    }


def split_effects(
    sums: AblationSums, name: str, group: Group, halves: np.ndarray, cluster: np.ndarray
) -> SplitEffects | Undefined:
    """Effects on one group at one class's positions, each half's choice on the other.

    halves, cluster: int64 (windows,).
    """
    measured = []
    for half in (0, 1):
        on_other = group_effects(sums, _halved(name, half), halves == 1 - half, cluster)
        if isinstance(on_other, Undefined):
            return on_other
        measured.append(on_other)

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        here = signed_effects(sums, sets, half)
        chosen_on = signed_effects(sums, sets, 1 - half)[:, :-1]
        return {STRONGEST: _strongest(here[:, :-1], chosen_on), LAYER: here[:, -1]}

    values = measure(group, statistic)
    # the head is the strongest on the half that chose the group; measured[h] is of the other half
    heads = [int(np.abs(signed_effects(sums, group.members[h][None], h)[0, :-1]).argmax()) for h in (0, 1)]
    errors = {
        STRONGEST: math.hypot(*(float(m.signed_se[head]) for m, head in zip(measured, heads, strict=True))) / 2,
        LAYER: math.hypot(*(float(m.signed_se[-1]) for m in measured)) / 2,
    }
    clusters = sum(m.clusters for m in measured)
    strongest, layer = (
        # the halves have a mean each, which takes two degrees of freedom
        SignedEffect(values[kind], t_interval(values[kind].value, se, clusters - 1), clusters)
        for kind, se in errors.items()
    )
    signed, share, total = (
        ((first + second) / 2)[:-1]
        for first, second in zip(*((m.signed, m.share, m.total) for m in measured), strict=True)
    )
    return SplitEffects(strongest, layer, signed, share, total)


def group_effects(sums: AblationSums, name: str, windows: np.ndarray, cluster: np.ndarray) -> GroupEffects | Undefined:
    """Effects on the group `name` of `sums`, over the windows whose flag in windows, bool (all windows,), is set.

    cluster: int64 (all windows,), the independent piece of text that each is of.
    """
    flagged = windows[sums.window_ids]
    if not flagged.any():
        return Undefined("no position of the class")
    held, piece = np.unique(cluster[sums.window_ids[flagged]], return_inverse=True)
    count = len(held)
    by_cluster = (np.arange(count)[:, None] == piece).astype(np.float64)
    change, growth = by_cluster @ sums.group_change[name][flagged], by_cluster @ sums.group_growth[name][flagged]
    before = by_cluster @ sums.group_before[name][flagged][:, None]
    if before.sum() == 0:
        return Undefined("the group's activations are all 0")
    total, size, grown = (v.sum(0) for v in (change, before, growth))
    signed = _ratio(grown, size)
    if count == 1:
        return GroupEffects(total, _ratio(total, size), signed, np.full_like(signed, np.nan), count)
    # sums over one cluster less, scaled up to as many clusters
    grown_left, size_left = ((whole - v) * (count / (count - 1)) for whole, v in ((grown, growth), (size, before)))
    return GroupEffects(total, _ratio(total, size), signed, jackknife_se(_ratio(grown_left, size_left)), count)


def signed_effects(sums: AblationSums, sets: np.ndarray, part: int) -> np.ndarray:
    """float64 (s, H + 1): signed effects on sets (s, n) of neurons over a part of the windows, NaN where Σ|a| is 0."""
    members = np.zeros((len(sets), sums.before.shape[1]))
    np.put_along_axis(members, sets, 1.0, axis=1)
    return _ratio(members @ sums.growth[part].T, members @ sums.before[part][:, None])


def _strongest(here: np.ndarray, chosen_on: np.ndarray) -> np.ndarray:
    """(s,): effect here of the head that is strongest where it was chosen, positive if it has the same sign; (s, H)."""
    head = np.abs(chosen_on).argmax(1)[:, None]
    effect, sign = (np.take_along_axis(v, head, axis=1)[:, 0] for v in (here, np.sign(chosen_on)))
    return effect * sign


def _ratio(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(value, by, out=np.full(np.broadcast_shapes(value.shape, by.shape), np.nan), where=by > 0)
