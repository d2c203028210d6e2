"""Attention routing as rows of metrics/, a row for each layer, head and null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from rtdyn.analyses.groups.choose import Group
from rtdyn.analyses.groups.measure import measure
from rtdyn.analyses.routing.differences import Difference
from rtdyn.analyses.routing.head_ablation import AblationSums, HeadAblation, effects, group_effects
from rtdyn.analyses.routing.profiles import Correlation
from rtdyn.analyses.routing.routing import Routing
from rtdyn.analyses.statistics import Comparison
from rtdyn.intervals import normal_interval
from rtdyn.names import RARE
from rtdyn.store.schema import Metric
from rtdyn.tables.groups import with_nulls
from rtdyn.undefined import Undefined

SIGNED, SHARE, TOTAL = "signed", "share", "total"
"""Of the activations: (Σ|a'| − |a|)/Σ|a|, Σ|Δa|/Σ|a|, Σ|Δa| (`paper-code`)."""


def halved_groups(groups: Mapping[str, Group | Undefined]) -> dict[str, np.ndarray]:
    """The members that each half chose, by `<name>@<half>`."""
    return {
        f"{name}@{half}": members
        for name, group in groups.items()
        if not isinstance(group, Undefined)
        for half, members in enumerate(group.members)
    }


def routing_metrics(found: Routing, groups: Mapping[str, Group | Undefined], halves: np.ndarray) -> list[Metric]:
    """Profiles, Gini and attention to key 0 of rare against common, and what heads do to the groups' activations."""
    rows = [Metric("routing", "matched_positions", float(len(found.matched.rare)), token_class=RARE)]
    for profile in found.profiles:
        for metric, r in (("profile_r", profile.with_bos), ("profile_r_without_bos", profile.without_bos)):
            rows += _profile_rows(metric, r, profile.reason, profile.layer, profile.n)
    for metric, layers in (("gini_difference", found.gini), ("bos_difference", found.bos)):
        for layer, difference in zip(found.layers, layers, strict=True):
            rows += _difference_rows(metric, difference, layer)
    for ablation in found.ablations:
        for token_class, sums in ablation.classes.items():
            for name, group in groups.items():
                rows += _effect_rows(ablation, token_class, sums, name, group, halves)
    return rows


def _profile_rows(metric: str, r: Correlation | None, reason: str, layer: int, n: int) -> list[Metric]:
    row = partial(Metric, "routing", metric, token_class=RARE, layer=layer, n=n)
    if r is None or r.mean is None:
        return [row(value=None, reason=reason or "every head's profile is constant")]
    rows = []
    rows.append(_resampled(partial(row, value=r.mean, ci_low=r.low, ci_high=r.high), r.null))
    for head, (value, null) in enumerate(zip(r.by_head.tolist(), r.null_by_head, strict=True)):
        if math.isfinite(value):
            rows.append(_resampled(partial(row, value=value, head=head), null))
        else:
            rows.append(row(value=None, head=head, reason="the head's profile is constant"))
    return rows


def _resampled(row: partial[Metric], null: Comparison | Undefined) -> Metric:
    if isinstance(null, Undefined):
        return row(null="resampling", reason=null.reason)
    return row(null="resampling", null_mean=null.null_mean, null_sd=null.null_sd, p_value=null.p_value)


def _difference_rows(metric: str, d: Difference, layer: int) -> list[Metric]:
    rows = []
    for k, value in enumerate(d.difference.tolist()):
        head = k if k < len(d.difference) - 1 else None
        row = partial(Metric, "routing", metric, token_class=RARE, layer=layer, head=head, n=d.n)
        if not math.isfinite(value):
            rows.append(row(value=None, reason=d.reason or "no query has attention to compare"))
            continue
        se, p = float(d.se[k]), float(d.p_value[k])
        ends = normal_interval(value, se)
        with_value = partial(row, value=value, ci_low=ends[0], ci_high=ends[1], null="permutation")
        known = math.isfinite(p)
        rows.append(with_value(null_mean=0.0, p_value=p) if known else with_value(reason=d.reason or "no permutation"))
    return rows


def _strongest(here: np.ndarray, chosen_on: np.ndarray) -> np.ndarray:
    """(s,): effect here of the head that is strongest where it was chosen, positive if it has the same sign; (s, H)."""
    head = np.abs(chosen_on).argmax(1)[:, None]
    effect, sign = (np.take_along_axis(v, head, axis=1)[:, 0] for v in (here, np.sign(chosen_on)))
    return effect * sign


def _effect_rows(
    ablation: HeadAblation,
    token_class: str,
    sums: AblationSums,
    name: str,
    group: Group | Undefined,
    halves: np.ndarray,
) -> list[Metric]:
    """Effects of each head and of all heads on one group at one class's positions, each half's choice on the other."""
    suffix = "" if token_class == RARE else f"_{token_class}"
    metrics = (f"head_effect_max{suffix}", f"layer_effect{suffix}")
    row = partial(Metric, "routing", token_class=RARE, group=name, layer=ablation.layer)
    reason = group.reason if isinstance(group, Undefined) else ablation.structural
    if isinstance(group, Undefined) or reason:
        return [row(metric=metric, value=None, reason=reason) for metric in metrics]
    found = [group_effects(sums, f"{name}@{half}", halves == 1 - half) for half in (0, 1)]
    why = next((f.reason for f in found if f.reason), "")
    signed = (found[0].signed + found[1].signed) / 2
    if not np.isfinite(signed).all():
        return [row(metric=metric, value=None, reason=why or "undefined on one half") for metric in metrics]

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        here = effects(sums, sets, half).signed
        chosen_on = effects(sums, sets, 1 - half).signed[:, :-1]
        return {metrics[0]: _strongest(here[:, :-1], chosen_on), metrics[1]: here[:, -1]}

    values = measure(group, statistic)
    # the head is the strongest on the half that chose the group; found[h] was measured on the other
    heads = [int(np.abs(effects(sums, group.members[h][None], h).signed[0, :-1]).argmax()) for h in (0, 1)]
    errors = (
        math.hypot(*(float(f.signed_se[head]) for f, head in zip(found, heads, strict=True))) / 2,
        math.hypot(*(float(f.signed_se[-1]) for f in found)) / 2,
    )
    rows = []
    for metric, se in zip(metrics, errors, strict=True):
        value = values[metric].value
        ends = normal_interval(value, se)
        rows += with_nulls("routing", metric, name, values[metric], ends, ablation.layer)
    for head in range(len(signed) - 1):
        per_head = {
            SIGNED: signed[head],
            SHARE: (found[0].share[head] + found[1].share[head]) / 2,
            TOTAL: (found[0].total[head] + found[1].total[head]) / 2,
        }
        rows += [
            row(metric=f"head_effect_{kind}{suffix}", value=float(value), head=head) for kind, value in per_head.items()
        ]
    return rows
