"""Rows of metrics/ for the regimes of the rank-influence curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import partial

from rtdyn.analyses.regimes.contrast import CURVE_STATISTICS
from rtdyn.analyses.regimes.curve import Contrast, Curve
from rtdyn.analyses.regimes.evidence import COMPARISONS, Bootstrap, Interval, Likelihoods, ShapeEvidence
from rtdyn.analyses.regimes.fit import FixedBoundaries, Regimes, ThreeSegments
from rtdyn.names import DECAY, PLATEAU, POWER_LAW, RARE
from rtdyn.store.schema import STABLE, Metric
from rtdyn.undefined import Undefined

_FIT_METRICS = (
    *(f.name for f in fields(ThreeSegments)),
    *(f"{label}_{what}" for label in (PLATEAU, POWER_LAW, DECAY) for what in ("size", "fraction")),
    "raised",
)


_PAPER_CODE_METRICS = tuple(f"paper_code_{f.name}" for f in fields(FixedBoundaries))


def regime_metrics(curves: Mapping[str, Curve], contrast: Contrast | str, layer: int) -> list[Metric]:
    """The fit of each class's curve with its evidence; where a number is undefined, its row says why."""
    rows = []
    for name, c in curves.items():
        row = partial(Metric, "regimes", token_class=name, layer=layer, n=len(c.regimes.rank) - c.regimes.censored)
        for metric, value in {**_fit_values(c.regimes), "censored": float(c.regimes.censored)}.items():
            if isinstance(value, str):
                rows.append(row(metric=metric, value=None, reason=value))
                continue
            interval = None if isinstance(c.bootstrap, str) else c.bootstrap.intervals.get(metric)
            rows.append(
                row(
                    metric=metric,
                    value=value,
                    ci_low=interval.low if isinstance(interval, Interval) else None,
                    ci_high=interval.high if isinstance(interval, Interval) else None,
                )
            )
        rows += [*_shape_rows(c.shape, row), *_bootstrap_rows(c.bootstrap, row), *_likelihood_rows(c.likelihoods, row)]
    return [*rows, *_contrast_rows(contrast, layer)]


def _shape_rows(shape: ShapeEvidence | str, row: Callable[..., Metric]) -> list[Metric]:
    if isinstance(shape, str):
        return [row(metric=metric, value=None, reason=shape) for metric in ("shape_statistic", "shape_p_value")]
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


def _bootstrap_rows(found: Bootstrap | str, row: Callable[..., Metric]) -> list[Metric]:
    metrics = ("stable_plateau_size", "raised_share", "no_fit_share")
    if isinstance(found, str):
        return [row(metric=metric, value=None, reason=found) for metric in metrics]
    values = (float((found.stable_share > STABLE).sum()), found.raised_share, found.no_fit_share)
    return [row(metric=metric, value=value) for metric, value in zip(metrics, values, strict=True)]


def _likelihood_rows(found: Likelihoods | str, row: Callable[..., Metric]) -> list[Metric]:
    if isinstance(found, str):
        return [row(metric=metric, value=None, reason=found) for metric in ("tail_alpha", *COMPARISONS)]
    rows = [row(metric=name, value=value, p_value=found.p_values[name]) for name, value in found.ratios.items()]
    return [row(metric="tail_alpha", value=found.alpha), row(metric="tail_size", value=float(found.tail)), *rows]


def _contrast_rows(contrast: Contrast | str, layer: int) -> list[Metric]:
    """What the rare class's curve shows beyond pseudo-classes of common positions."""
    row = partial(Metric, "regimes", token_class=RARE, layer=layer)
    if isinstance(contrast, str):
        return [row(metric=f"contrast_{name}", value=None, reason=contrast) for name in CURVE_STATISTICS]
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
                    null="pseudo-class",
                    null_mean=against.null_mean,
                    null_sd=against.null_sd,
                    p_value=against.p_value,
                )
            )
    return rows


def _fit_values(regimes: Regimes) -> dict[str, float | str]:
    """Each number of a curve's fits, or the reason why there is none."""
    values: dict[str, float | str] = dict.fromkeys(_FIT_METRICS, regimes.reason)
    values.update(dict.fromkeys(_PAPER_CODE_METRICS, "too few uncensored neurons for the fixed boundaries"))
    if regimes.fit is not None:
        fit = asdict(regimes.fit)
        for label in (PLATEAU, POWER_LAW, DECAY):
            size = int((regimes.label == label).sum())
            fit |= {f"{label}_size": size, f"{label}_fraction": size / len(regimes.label)}
        fit["raised"] = regimes.fit.raised
        values.update({name: float(fit[name]) for name in _FIT_METRICS})
    if regimes.paper_code is not None:
        values.update({f"paper_code_{name}": float(value) for name, value in asdict(regimes.paper_code).items()})
    return values
