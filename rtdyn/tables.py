"""Results of the analyses as the rows and columns that are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from rtdyn.analyses.ablation import ClassInfluence, Influence, clustered_se, jackknife_se
from rtdyn.analyses.groups import CLEAR_SE, STABLE, TOP_SHARE, top_size
from rtdyn.analyses.pseudo_classes import CURVE_STATISTICS
from rtdyn.analyses.regime_evidence import COMPARISONS, Bootstrap, Interval, Likelihoods, ShapeEvidence
from rtdyn.analyses.regimes import DECAY, PLATEAU, POWER_LAW, FixedBoundaries, Regimes, ThreeSegments
from rtdyn.capture import Capture
from rtdyn.curves import Contrast, Curve
from rtdyn.normal import NORMAL_95
from rtdyn.store import Metric

PRIMARY = "rare"
"""The class that neurons are ranked by, and groups chosen by."""
_FIT_METRICS = (
    *(f.name for f in fields(ThreeSegments)),
    *(f"{label}_{what}" for label in (PLATEAU, POWER_LAW, DECAY) for what in ("size", "fraction")),
    "raised",
)
_PAPER_CODE_METRICS = tuple(f"paper_code_{f.name}" for f in fields(FixedBoundaries))


def loss_metrics(captured: Capture, length: int) -> list[Metric]:
    """Mean loss in nats over all kept positions and over each class's measured ones, with 95 % intervals."""
    rows = [_loss_metric("all", captured.loss, captured.kept_flat // length)]
    loss, positions = captured.measured_loss, captured.positions
    for c in positions.classes:
        members = positions.members(c.name)
        rows.append(_loss_metric(c.name, loss[torch.from_numpy(members)], positions.window[members]))
    return rows


def _loss_metric(name: str, loss: Tensor, windows: np.ndarray) -> Metric:
    _, index, counts = np.unique(windows, return_inverse=True, return_counts=True)
    sums = torch.from_numpy(np.bincount(index, loss.double().numpy()))[:, None]
    mean = float(loss.double().mean())
    low, high = _interval(mean, float(clustered_se(sums, torch.from_numpy(counts))[0]))
    return Metric("capture", "loss", mean, token_class=name, ci_low=low, ci_high=high, n=len(loss))


def _interval(value: float, se: float) -> tuple[float | None, float | None]:
    return (value - NORMAL_95 * se, value + NORMAL_95 * se) if math.isfinite(se) else (None, None)


def ablation_metrics(result: Influence, layer: int) -> list[Metric]:
    """Summaries of the influence of all neurons on each class."""
    rows = []
    for name, c in result.classes.items():
        top = math.ceil(TOP_SHARE * len(c.mean_abs))
        statistics: dict[str, Callable[[Tensor], Tensor]] = {
            "influence_mean": partial(torch.mean, dim=1),
            "influence_max": partial(torch.amax, dim=1),
            "influence_top_share": partial(_share_of_largest, count=top),
        }
        values: list[tuple[str, float | None, float | None, float | None]] = []
        for metric, statistic in statistics.items():
            value = float(statistic(c.mean_abs[None]))
            low, high = _interval(value, jackknife_se(statistic, c.window_abs_sum, c.window_n))
            values.append((metric, value, low, high) if math.isfinite(value) else (metric, None, None, None))
        clear = c.mean.abs() > CLEAR_SE * c.mean_se + c.error_bound
        values += [
            ("boosting_neurons", float((clear & (c.mean > 0)).sum()), None, None),
            ("suppressing_neurons", float((clear & (c.mean < 0)).sum()), None, None),
            ("error_bound_max", float(c.error_bound.max()), None, None),
        ]
        rows += [
            Metric(
                "ablation",
                metric,
                value,
                token_class=name,
                layer=layer,
                ci_low=low,
                ci_high=high,
                n=c.n,
                reason=None if value is not None else "every neuron's influence is 0",
            )
            for metric, value, low, high in values
        ]
    rows.append(Metric("ablation", "refined_share", result.refined_share, layer=layer))
    return rows


def _share_of_largest(means: Tensor, count: int) -> Tensor:
    return means.topk(count, dim=1).values.sum(1) / means.sum(1)


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
    row = partial(Metric, "regimes", token_class=PRIMARY, layer=layer)
    if isinstance(contrast, str):
        return [row(metric=f"contrast_{name}", value=None, reason=contrast) for name in CURVE_STATISTICS]
    rows = []
    for name, value in contrast.values.items():
        against = contrast.against[name]
        if isinstance(against, str):
            rows.append(row(metric=f"contrast_{name}", value=None, reason=against))
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


def neuron_table(
    step: int,
    captured: Capture,
    result: Influence,
    curves: Mapping[str, Curve],
    further: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """A row a neuron. `rank`, `regime` and `stable_share` are those of the class `rare`; others carry its name.

    further: columns (F,) of other analyses, NaN where undefined.
    """
    rows, moments = captured.anatomy.output_rows, captured.moments
    neurons = len(rows)
    columns: dict[str, np.ndarray | pl.Series] = {
        "step": np.full(neurons, step),
        "layer": np.full(neurons, captured.anatomy.layer),
        "neuron": np.arange(neurons),
    }
    for name, c in result.classes.items():
        columns[f"delta_{name}"] = _numpy(c.mean)
        columns[f"mean_abs_{name}"] = _numpy(c.mean_abs)
        columns[f"se_{name}"] = _numpy(c.mean_se)
        columns[f"se_abs_{name}"] = _numpy(c.mean_abs_se)
        columns[f"error_bound_{name}"] = _numpy(c.error_bound)
    for name, curve in curves.items():
        suffix = "" if name == PRIMARY else f"_{name}"
        label = [one or None for one in curve.regimes.label.tolist()]
        columns[f"rank{suffix}"] = curve.regimes.rank
        columns[f"regime{suffix}"] = pl.Series(label, dtype=pl.String)
        resampled = curve.bootstrap
        columns[f"stable_share{suffix}"] = (
            np.full(neurons, np.nan) if isinstance(resampled, str) else resampled.stable_share
        )
    columns["mean_activation"] = _numpy(moments.mean)
    columns["sd_activation"] = _numpy(moments.variance.sqrt())
    columns["positive_share"] = _numpy(moments.positive)
    columns["norm"] = _numpy(rows.double().norm(dim=1))
    columns |= further
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))


def window_table(step: int, layer: int, result: Influence, curves: Mapping[str, Curve]) -> pl.DataFrame:
    """Sums of Δ and |Δ| by window for plateau candidates, and by frequency decile for every neuron."""
    frames = []
    candidates = _candidates(result, curves)
    for name, c in result.classes.items():
        frames.append(
            _sums(
                step,
                "window",
                name,
                layer,
                c.window_ids,
                candidates,
                c.window_n,
                c.window_sum[:, candidates],
                c.window_abs_sum[:, candidates],
            )
        )
        deciles, neurons = c.decile_sum.shape
        everyone = torch.arange(neurons)
        frames.append(
            _sums(
                step,
                "decile",
                name,
                layer,
                torch.arange(deciles),
                everyone,
                c.decile_n,
                c.decile_sum,
                c.decile_abs_sum,
            )
        )
    return pl.concat(frames)


def _candidates(result: Influence, curves: Mapping[str, Curve]) -> Tensor:
    """Neurons that are among the most influential on `rare`, or in the plateau of any class's curve."""
    rare: ClassInfluence = result.classes[PRIMARY]
    top = top_size(len(rare.mean_abs))
    chosen = torch.zeros_like(rare.mean_abs, dtype=torch.bool)
    chosen[rare.mean_abs.topk(top).indices] = True
    for c in curves.values():
        chosen |= torch.from_numpy(c.regimes.label == PLATEAU).to(chosen.device)
    return chosen.nonzero().squeeze(1)


def _sums(
    step: int,
    kind: str,
    token_class: str | None,
    layer: int,
    index: Tensor,
    neurons: Tensor,
    n: Tensor,
    sums: Tensor,
    abs_sums: Tensor,
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "index": np.repeat(_numpy(index), len(neurons)),
            "neuron": np.tile(_numpy(neurons), len(index)),
            "n": np.repeat(_numpy(n), len(neurons)),
            "sum_delta": _numpy(sums).ravel(),
            "sum_abs_delta": _numpy(abs_sums).ravel(),
        }
    ).select(
        pl.lit(step, pl.Int64).alias("step"),
        pl.lit(kind).alias("kind"),
        pl.lit(token_class, pl.String).alias("token_class"),
        pl.lit(layer, pl.Int64).alias("layer"),
        pl.all(),
    )


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
