"""Layers before the last as rows of metrics/ and neurons/."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import polars as pl
import torch

from rtdyn.analyses.earlier_layers.calibration import Calibration, Sampled
from rtdyn.analyses.earlier_layers.curve import LayerCurve
from rtdyn.analyses.earlier_layers.estimate import TextPieces
from rtdyn.analyses.earlier_layers.layer import Layer, LayerClass
from rtdyn.analyses.earlier_layers.localised import FinalLayer
from rtdyn.analyses.earlier_layers.summary import rare_excess, summarise_layer
from rtdyn.analyses.regimes.resampled import CORRECTED
from rtdyn.analyses.regimes.summary import PLATEAU_FRACTION
from rtdyn.analyses.statistics import Estimate, as_numpy, mean_interval
from rtdyn.names import COMMON, LAYERS, RARE
from rtdyn.store.schema import Metric
from rtdyn.undefined import Undefined

CURVE_METRICS = (*CORRECTED, PLATEAU_FRACTION, "shape_p_value", "curve_error")
"""Of a layer's curve."""
ALL_WINDOWS, SAMPLE = "all windows", "sample"
"""What `measured` says of a neuron: that its effect is exact on the whole text, or estimated from some windows."""


def layer_metrics(layers: Mapping[int, Layer], seed: int) -> list[Metric]:
    """The effects of each layer's neurons together, and how good the first order is.

    seed: of the halves of the text.
    """
    rows = []
    for layer, result in layers.items():
        for name, c in result.classes.items():
            rows += _class_rows(c, result, name, layer, seed)
        row = partial(Metric, LAYERS, layer=layer)
        if COMMON in result.classes:
            excess = rare_excess(result.classes[RARE], result.classes[COMMON])
            rows.append(_of_text(partial(row, metric="total_rare_excess", token_class=RARE), excess))
        rows.append(_of_neurons(partial(row, metric="ranking_spearman", token_class=RARE), result.ranking))
        ranked = result.ranks
        neurons = len(result.sample.measured)
        rows.append(
            row(metric="ranked_neurons", token_class=RARE, value=None, reason=ranked.reason)
            if isinstance(ranked, Undefined)
            else row(metric="ranked_neurons", token_class=RARE, value=float(neurons))
        )
        rows.append(row(metric="measured_neurons", value=float(result.sample.measured.sum()), n=neurons))
        rows.append(row(metric="reruns", value=float(result.reruns), n=result.sample.drawn.size))
    return rows


def final_metrics(last: FinalLayer, final: int) -> list[Metric]:
    """The last layer, whose index is `final`, among the layers measured."""
    row = partial(Metric, LAYERS, token_class=RARE, layer=final)
    return [
        _of_text(partial(row, metric="total_rare_excess"), last.rare_excess),
        _of_text(partial(row, metric="final_layer_share"), last.share),
    ]


def curve_metrics(curve: LayerCurve | Undefined, token_class: str, layer: int) -> list[Metric]:
    """The fit of one class's curve; each row says why where it is undefined."""
    row = partial(Metric, LAYERS, token_class=token_class, layer=layer)
    if isinstance(curve, Undefined):
        return [row(metric=metric, value=None, reason=curve.reason) for metric in CURVE_METRICS]
    rows = [
        row(metric=metric, value=None, reason=value.reason, n=curve.uncensored)
        if isinstance(value, Undefined)
        else row(metric=metric, n=curve.uncensored, **vars(value))
        for metric, value in curve.values.items()
    ]
    p, error = curve.shape, curve.error
    rows.append(
        row(metric="shape_p_value", value=None, reason=p.reason)
        if isinstance(p, Undefined)
        else row(metric="shape_p_value", value=p.p_value, null="shape", p_value=p.p_value)
    )
    rows.append(
        row(metric="curve_error", value=None, reason=error.reason)
        if isinstance(error, Undefined)
        else row(metric="curve_error", value=error)
    )
    return rows


def _class_rows(c: LayerClass, result: Layer, name: str, layer: int, seed: int) -> list[Metric]:
    row = partial(Metric, LAYERS, token_class=name, layer=layer)
    summary = summarise_layer(c, result.sample, seed)
    rows = [
        _of_text(partial(row, metric=metric, n=c.text.n), number)
        for metric, number in (
            ("total_mean", summary.mean),
            ("total_top_share", summary.top_share),
            ("direct_mean", summary.direct_mean),
        )
    ]
    rows.append(_of_neurons(partial(row, metric="direct_share"), c.direct_share))
    for ending, calibration in (("", c.calibration), ("_abs", c.calibration_abs)):
        rows += [_of_neurons(partial(row, metric=f"{m}{ending}"), v) for m, v in _numbers(calibration).items()]
    rows.append(_of_neurons(partial(row, metric="missed_share"), c.missed_share))
    for metric, error in (("sample_error", summary.sample_error), ("sample_error_abs", summary.sample_error_abs)):
        rows.append(
            row(metric=metric, value=None, reason=error.reason)
            if isinstance(error, Undefined)
            else row(metric=metric, value=error)
        )
    return rows


def _numbers(calibration: Calibration) -> dict[str, Sampled | Undefined]:
    return {
        "first_order_pearson": calibration.pearson,
        "first_order_spearman": calibration.spearman,
        "first_order_slope": calibration.slope,
        "first_order_error": calibration.error,
    }


def _of_text(row: partial[Metric], number: Estimate | Undefined) -> Metric:
    if isinstance(number, Undefined):
        return row(value=None, reason=number.reason)
    return row(value=number.value, ci_low=number.low, ci_high=number.high, clusters=number.clusters)


def _of_neurons(row: partial[Metric], number: Sampled | Undefined) -> Metric:
    if isinstance(number, Undefined):
        return row(value=None, reason=number.reason)
    return row(value=number.value, ci_low=number.low, ci_high=number.high, n=number.n)


def with_earlier_layers(
    final: pl.DataFrame,
    layers: Mapping[int, Layer],
    further: Mapping[int, Mapping[str, np.ndarray]],
    step: int,
    rank_by: str,
) -> pl.DataFrame:
    """The rows of neurons/ of earlier layers, then those of the final one; no change where there are none.

    further: by layer, other columns (F,).
    """
    if not layers:
        return final
    earlier = [_neuron_table(result, further[layer], step, layer, rank_by) for layer, result in layers.items()]
    exact = final.with_columns(pl.lit(ALL_WINDOWS).alias("measured"))
    joined = pl.concat([exact, *earlier], how="diagonal_relaxed")
    return joined.sort("layer", maintain_order=True)


def _neuron_table(
    result: Layer, further: Mapping[str, np.ndarray], step: int, layer: int, rank_by: str
) -> pl.DataFrame:
    captured, measured = result.captured, result.sample.measured
    neurons = len(measured)
    columns: dict[str, np.ndarray | pl.Series] = {
        "step": np.full(neurons, step),
        "layer": np.full(neurons, layer),
        "neuron": np.arange(neurons),
        "measured": pl.Series(np.where(measured, ALL_WINDOWS, SAMPLE)),
        "random": np.isin(np.arange(neurons), result.sample.uniform),
    }
    for name, c in result.classes.items():
        columns |= _class_columns(c, name)
    rank = result.rank(rank_by)
    columns["rank"] = pl.Series([None] * neurons, dtype=pl.Int64) if isinstance(rank, Undefined) else rank
    moments = captured.moments
    columns["mean_activation"] = as_numpy(moments.mean)
    columns["sd_activation"] = as_numpy(moments.variance.sqrt())
    columns["positive_share"] = as_numpy(moments.positive)
    columns["norm"] = as_numpy(captured.anatomy.output_rows.double().norm(dim=1))
    return pl.DataFrame({**columns, **further}).with_columns(pl.col(pl.Float64).fill_nan(None))


def _class_columns(c: LayerClass, name: str) -> dict[str, np.ndarray | pl.Series]:
    columns: dict[str, np.ndarray | pl.Series] = {
        f"delta_{name}": c.signed.value,
        f"mean_abs_{name}": c.absolute.value,
        f"se_{name}": c.signed.se,
        f"se_abs_{name}": c.absolute.se,
        f"sample_error_{name}": c.signed.sample_error,
        f"sample_error_abs_{name}": c.absolute.sample_error,
        f"first_order_delta_{name}": c.signed.first_order,
        f"first_order_mean_abs_{name}": c.absolute.first_order,
        f"direct_delta_{name}": as_numpy(c.direct.mean),
        f"direct_mean_abs_{name}": as_numpy(c.direct.mean_abs),
        f"direct_error_bound_{name}": as_numpy(c.direct.error_bound),
    }
    for end, values in zip(("ci_low", "ci_high"), _intervals(c, c.text), strict=True):
        columns[f"{end}_abs_{name}"] = pl.Series(values, dtype=pl.Float64)
    return columns


def _intervals(c: LayerClass, text: TextPieces) -> list[list[float | None]]:
    """Both ends of the 95 % intervals of mean |Δ|."""
    counts = text.by_piece(text.window_n)
    held = counts > 0
    sums = text.by_piece(c.absolute.window_sum)[held]
    ends = mean_interval(sums, counts[held], torch.from_numpy(c.absolute.se), 0.0)
    return [[both[place] for both in ends] for place in (0, 1)]
