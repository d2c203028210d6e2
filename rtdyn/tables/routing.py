"""Attention routing as rows of metrics/, a row for each layer, head and null, and as lines of curves/."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from rtdyn.analyses.context import Context
from rtdyn.analyses.routing.differences import Difference
from rtdyn.analyses.routing.head_effects import SplitEffects
from rtdyn.analyses.routing.profiles import Correlation, Profiles
from rtdyn.analyses.routing.routing import Routing
from rtdyn.analyses.statistics import Comparison, Estimate
from rtdyn.names import BELOW, PSEUDO_CLASS, RARE
from rtdyn.store.schema import PLAIN, Metric
from rtdyn.tables.curves import attention_curves
from rtdyn.tables.groups import with_nulls
from rtdyn.tables.step_rows import StepRows
from rtdyn.undefined import Undefined


def routing_rows(result: Routing, _: Context) -> StepRows:
    """Profiles, Gini and attention to key 0 of rare against common, and what heads do to the groups' activations."""
    rows = [Metric("routing", "matched_positions", float(len(result.matched.rare)), token_class=RARE)]
    rows += attention_rows(result.profiles, (result.gini, result.bos), result.attention_layers)
    for layer, by_class in zip(result.layers, result.effects, strict=True):
        rows += _rows_by_class(by_class, layer)
    return StepRows(rows, lines=attention_curves(result))


def layer_routing_rows(result: Routing, context: Context) -> StepRows:
    """The same of an earlier layer: rows of attention have the attention's layer, and all others that of the neurons.

    What heads of the layer below do ends in BELOW.
    """
    rows = attention_rows(result.profiles, (result.gini, result.bos), result.attention_layers)
    for layer, by_class in zip(result.layers, result.effects, strict=True):
        rows += _rows_by_class(by_class, context.layer, "" if layer == context.layer else BELOW)
    return StepRows(rows)


def _rows_by_class(
    by_class: Mapping[str, Mapping[str, SplitEffects | Undefined]], layer: int, ending: str = ""
) -> Iterator[Metric]:
    for token_class, by_group in by_class.items():
        for group, effects in by_group.items():
            yield from _effect_rows(effects, token_class, group, layer, ending)


def attention_rows(
    profiles: Sequence[Profiles],
    differences: tuple[Sequence[Difference], Sequence[Difference]],
    layers: Sequence[int],
) -> list[Metric]:
    """Where heads look from rare targets, and how concentrated; differences by layer, of Gini and of key 0."""
    rows = []
    for profile in profiles:
        rows += _profile_rows("profile_r", profile.with_bos, profile.layer, profile.n)
        rows += _profile_rows("profile_r_without_bos", profile.without_bos, profile.layer, profile.n)
    for metric, by_layer in zip(("gini_difference", "bos_difference"), differences, strict=True):
        for layer, difference in zip(layers, by_layer, strict=True):
            rows += _difference_rows(metric, difference, layer)
    return rows


def _profile_rows(metric: str, r: Correlation | Undefined, layer: int, n: int) -> list[Metric]:
    row, plain = (
        partial(Metric, "routing", name, token_class=RARE, layer=layer, n=n) for name in (metric, metric + PLAIN)
    )
    if isinstance(r, Undefined):
        return [of(value=None, reason=r.reason) for of in (row, plain)]
    rows = [_without_noise(row, r.mean), _against(partial(plain, value=r.plain_mean), r.null)]
    for head, (value, as_it_is) in enumerate(zip(r.by_head.tolist(), r.plain_by_head.tolist(), strict=True)):
        null = r.null_by_head[head]
        if math.isfinite(as_it_is):
            hidden = None if math.isfinite(value) else "noise hides the head's profile"
            rows.append(row(value=None if hidden else value, head=head, reason=hidden))
            rows.append(_against(partial(plain, value=as_it_is, head=head), null))
        elif isinstance(null, Undefined):
            rows += [of(value=None, head=head, reason=null.reason) for of in (row, plain)]
    return rows


def _without_noise(row: partial[Metric], mean: Estimate | Undefined) -> Metric:
    if isinstance(mean, Undefined):
        return row(value=None, reason=mean.reason)
    return row(value=mean.value, ci_low=mean.low, ci_high=mean.high, clusters=mean.clusters)


def _against(row: partial[Metric], null: Comparison | Undefined) -> Metric:
    """The row among pseudo-classes in the rare class's place."""
    if isinstance(null, Undefined):
        return row(null=PSEUDO_CLASS, reason=null.reason)
    return row(null=PSEUDO_CLASS, null_mean=null.null_mean, null_sd=null.null_sd, p_value=null.p_value)


def _difference_rows(metric: str, d: Difference, layer: int) -> list[Metric]:
    """A row for each head, and one for the mean over heads."""
    rows = []
    for k, (value, null) in enumerate(zip(d.difference.tolist(), d.against, strict=True)):
        head = k if k < len(d.difference) - 1 else None
        row = partial(Metric, "routing", metric, token_class=RARE, layer=layer, head=head, n=d.n, clusters=d.clusters)
        if math.isfinite(value):
            low, high = d.interval(k)
            rows.append(_against(partial(row, value=value, ci_low=low, ci_high=high), null))
        elif isinstance(null, Undefined):
            rows.append(row(value=None, reason=null.reason))
    return rows


def _effect_rows(
    effects: SplitEffects | Undefined, token_class: str, group: str, layer: int, ending: str
) -> list[Metric]:
    """Effects of each head and of all heads on one group at one class's positions. ending: of the metrics' names."""
    suffix = ending + ("" if token_class == RARE else f"_{token_class}")
    metrics = (f"head_effect_max{suffix}", f"layer_effect{suffix}")
    row = partial(Metric, "routing", token_class=RARE, group=group, layer=layer)
    if isinstance(effects, Undefined):
        return [row(metric=metric, value=None, reason=effects.reason) for metric in metrics]
    rows = []
    for metric, effect in zip(metrics, (effects.strongest, effects.layer), strict=True):
        rows += with_nulls("routing", metric, group, effect.value, effect.interval, layer, effect.clusters)
    by_kind = {"signed": effects.signed, "share": effects.share, "total": effects.total}
    for head in range(len(effects.signed)):
        rows += [
            row(metric=f"head_effect_{kind}{suffix}", value=float(values[head]), head=head)
            for kind, values in by_kind.items()
        ]
    return rows
