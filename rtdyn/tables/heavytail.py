"""Heavy tails of input weights as rows of metrics/ and lines of curves/."""

from __future__ import annotations

from functools import partial

from rtdyn.analyses.context import Context
from rtdyn.analyses.groups.heavytail import ALPHA
from rtdyn.analyses.groups.input_weights import FixedAspect, HeavyTails, LayerAlpha, LayerTails, MetricValues
from rtdyn.names import RARE
from rtdyn.store.schema import Metric
from rtdyn.tables.curves import eigenvalue_curves, hill_curves
from rtdyn.tables.groups import group_rows
from rtdyn.tables.step_rows import StepRows
from rtdyn.undefined import Undefined

FARMS = "farms_"
"""What the metrics of square submatrices begin with (arXiv:2506.06280)."""


def heavytail_rows(result: HeavyTails, context: Context) -> StepRows:
    """Hill's α of the groups and of the layer, then weightwatcher's numbers of the layer and of the groups."""
    layer, several = context.layer, len(result.hill) > 1
    rows = []
    for matrix, by_group in result.hill.items():
        named = {
            group: {_hill_name(rule, matrix, several): value for rule, value in by_rule.items()}
            for group, by_rule in by_group.items()
        }
        rows += group_rows("heavytail", named, layer)
    rows += layer_tail_rows(result.layer, layer)
    for matrix, by_name in result.weightwatcher.items():
        for group, values in by_name.items():
            rows += _weightwatcher_rows(matrix, values, layer, group)
    for group, exponents in result.fixed_aspect.items():
        rows += _fixed_aspect_rows(exponents, several, layer, group)
    lines = eigenvalue_curves(result.spectra, several, layer)
    return StepRows(rows, lines=[*lines, *hill_curves([*result.layer.over_k, *result.over_k], several, layer)])


def layer_tail_rows(result: LayerTails, layer: int) -> list[Metric]:
    """Hill's α of the layer's input matrices, with its interval, then weightwatcher's numbers of all its matrices."""
    rows = []
    for matrix, by_rule in result.hill.items():
        for rule, alpha in by_rule.items():
            rows.append(_alpha_row(_hill_name(rule, matrix, len(result.hill) > 1), alpha, layer))
    for matrix, values in result.weightwatcher.items():
        rows += _weightwatcher_rows(matrix, values, layer)
    return [*rows, *_fixed_aspect_rows(result.fixed_aspect, len(result.hill) > 1, layer)]


def _alpha_row(metric: str, alpha: LayerAlpha | Undefined, layer: int) -> Metric:
    row = partial(Metric, "heavytail", metric, layer=layer)
    if isinstance(alpha, Undefined):
        return row(value=None, reason=alpha.reason)
    return row(value=alpha.alpha, ci_low=alpha.low, ci_high=alpha.high, n=alpha.n)


def _hill_name(rule: str, matrix: str, several: bool) -> str:
    """Of Hill's α; several: whether the MLP has more than one input matrix, which tells whose it is."""
    return f"hill_alpha_{rule.replace('-', '_')}" + (f"_{matrix}" if several else "")


def _weightwatcher_rows(matrix: str, values: MetricValues, layer: int, group: str | None = None) -> list[Metric]:
    token_class = None if group is None else RARE
    row = partial(Metric, "heavytail", layer=layer, group=group, token_class=token_class)
    return [
        row(metric=f"ww_{metric}_{matrix}", value=None, reason=value.reason)
        if isinstance(value, Undefined)
        else row(metric=f"ww_{metric}_{matrix}", value=value)
        for metric, value in values.items()
    ]


def _fixed_aspect_rows(exponents: FixedAspect, several: bool, layer: int, group: str | None = None) -> list[Metric]:
    """Exponents of square submatrices, under the plain ones' names behind FARMS."""
    row = partial(Metric, "heavytail", layer=layer, group=group, token_class=None if group is None else RARE)
    hill = {
        _hill_name(rule, matrix, several): alpha
        for matrix, alphas in exponents.hill.items()
        for rule, alpha in alphas.items()
    }
    weightwatcher = {f"ww_{ALPHA}_{matrix}": alpha for matrix, alpha in exponents.weightwatcher.items()}
    return [
        row(metric=FARMS + metric, value=None, reason=alpha.reason)
        if isinstance(alpha, Undefined)
        else row(metric=FARMS + metric, value=alpha)
        for metric, alpha in {**hill, **weightwatcher}.items()
    ]
