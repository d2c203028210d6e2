"""Rows of metrics/ for the regimes of the rank-influence curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from rtdyn.analyses.regimes.contrast import CURVE_STATISTICS, Contrast
from rtdyn.analyses.regimes.curve import Curve
from rtdyn.analyses.regimes.evidence import COMPARISONS, Likelihoods, ShapeEvidence
from rtdyn.analyses.regimes.regimes import CurveEvidence
from rtdyn.analyses.regimes.resampled import Resampled
from rtdyn.analyses.regimes.summary import corrected_values, fit_values, stability_values
from rtdyn.names import PSEUDO_CLASS, RARE
from rtdyn.store.schema import Metric
from rtdyn.undefined import Undefined

Row = Callable[..., Metric]


def regime_metrics(evidence: CurveEvidence, layer: int) -> list[Metric]:
    """The fit of each class's curve with its evidence; where a number is undefined, its row says why."""
    return [*curve_metrics(evidence.curves, layer), *contrast_rows(evidence.contrast, layer)]


def curve_metrics(curves: Mapping[str, Curve], layer: int) -> list[Metric]:
    """The same of the curves alone, by class."""
    return [row for name, c in curves.items() for row in _curve_rows(c, name, layer)]


def _curve_rows(c: Curve, token_class: str, layer: int) -> list[Metric]:
    uncensored = len(c.regimes.rank) - c.regimes.censored
    row = partial(Metric, "regimes", token_class=token_class, layer=layer, n=uncensored)
    return [
        *_fit_rows(c, row),
        *_shape_rows(c.shape, row),
        *_stability_rows(c.resampled, row),
        *([] if c.likelihoods is None else _likelihood_rows(c.likelihoods, row)),
    ]


def _fit_rows(c: Curve, row: Row) -> list[Metric]:
    return [
        row(metric=metric, value=None, reason=value.reason)
        if isinstance(value, Undefined)
        else row(metric=metric, **vars(value))
        for metric, value in {**fit_values(c.regimes), **corrected_values(c.regimes, c.resampled)}.items()
    ]


def _shape_rows(shape: ShapeEvidence | Undefined, row: Row) -> list[Metric]:
    if isinstance(shape, Undefined):
        return [row(metric=metric, value=None, reason=shape.reason) for metric in ("shape_statistic", "shape_p_value")]
    rows = [
        row(
            metric="shape_statistic",
            value=shape.statistic,
            null=name,
            null_mean=shape.null_means[name],
            null_sd=shape.null_sds[name],
            p_value=p,
        )
        for name, p in shape.p_values.items()
    ]
    return [*rows, row(metric="shape_p_value", value=shape.p_value, null="shape", p_value=shape.p_value)]


def _stability_rows(resampled: Resampled | Undefined, row: Row) -> list[Metric]:
    return [
        row(metric=metric, value=None, reason=value.reason)
        if isinstance(value, Undefined)
        else row(metric=metric, value=value)
        for metric, value in stability_values(resampled).items()
    ]


def _likelihood_rows(fitted: Likelihoods | Undefined, row: Row) -> list[Metric]:
    if isinstance(fitted, Undefined):
        return [row(metric=metric, value=None, reason=fitted.reason) for metric in ("tail_alpha", *COMPARISONS)]
    rows = [row(metric=name, value=value, p_value=fitted.p_values[name]) for name, value in fitted.ratios.items()]
    return [row(metric="tail_alpha", value=fitted.alpha), row(metric="tail_size", value=float(fitted.tail)), *rows]


def contrast_rows(contrast: Contrast | Undefined, layer: int) -> list[Metric]:
    """What the rare class's curve shows beyond pseudo-classes of common positions."""
    row = partial(Metric, "regimes", token_class=RARE, layer=layer)
    if isinstance(contrast, Undefined):
        return [row(metric=f"contrast_{name}", value=None, reason=contrast.reason) for name in CURVE_STATISTICS]
    rows = []
    for name, value in contrast.values.items():
        against = contrast.against[name]
        if isinstance(against, Undefined):
            rows.append(row(metric=f"contrast_{name}", value=None, reason=against.reason))
        else:
            rows.append(
                row(
                    metric=f"contrast_{name}",
                    value=value,
                    null=PSEUDO_CLASS,
                    null_mean=against.null_mean,
                    null_sd=against.null_sd,
                    p_value=against.p_value,
                )
            )
    return rows
