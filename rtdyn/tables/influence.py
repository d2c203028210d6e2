"""Results of the analyses as the rows and columns that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.influence.losses import MeanLoss
from rtdyn.analyses.influence.signs import signs_of
from rtdyn.analyses.influence.summary import InfluenceSummary
from rtdyn.analyses.regimes.curve import Curve
from rtdyn.analyses.regimes.regimes import plateau_candidates
from rtdyn.analyses.statistics import as_numpy, mean_interval
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import FLATTENING_TOP, PLATEAU, RAISED_TOP, RARE
from rtdyn.store.schema import Metric
from rtdyn.undefined import Undefined


def loss_metrics(losses: Mapping[str, MeanLoss]) -> list[Metric]:
    """Mean loss by token class, `all` among them, with 95 % intervals."""
    return [
        Metric(
            "capture",
            "loss",
            value=loss.mean.value,
            token_class=name,
            ci_low=loss.mean.low,
            ci_high=loss.mean.high,
            n=loss.n,
            clusters=loss.mean.clusters,
        )
        for name, loss in losses.items()
    ]


def ablation_metrics(summaries: Mapping[str, InfluenceSummary], refined_share: float, layer: int) -> list[Metric]:
    """Summaries of the influence of all neurons on each class."""
    rows = [row for name, summary in summaries.items() for row in _summary_rows(summary, name, layer)]
    return [*rows, Metric("ablation", "refined_share", refined_share, layer=layer)]


def _summary_rows(summary: InfluenceSummary, token_class: str, layer: int) -> list[Metric]:
    row = partial(Metric, "ablation", token_class=token_class, layer=layer, n=summary.n)
    rows = []
    for metric, number in (
        ("influence_mean", summary.mean),
        ("influence_max", summary.largest),
        ("influence_top_share", summary.top_share),
    ):
        if isinstance(number, Undefined):
            rows.append(row(metric=metric, value=None, reason=number.reason))
        else:
            low, high, clusters = number.low, number.high, number.clusters
            rows.append(row(metric=metric, value=number.value, ci_low=low, ci_high=high, clusters=clusters))
    return [
        *rows,
        row(metric="boosting_neurons", value=float(summary.boosting)),
        row(metric="suppressing_neurons", value=float(summary.suppressing)),
        row(metric="error_bound_max", value=summary.error_bound),
    ]


def neuron_table(
    step: int,
    captured: Capture,
    result: Influence,
    curves: Mapping[str, Curve],
    further: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """A row a neuron. `rank`, `regime` and `stable_share` are those of the class `rare`; others carry its name.

    ci_low_abs, ci_high_abs: the 95 % interval of mean_abs. sign: 1 where a neuron clearly helps the class, −1 where it
    clearly hurts, else 0 (`influence.signs`).
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
        columns[f"delta_{name}"] = as_numpy(c.mean)
        columns[f"mean_abs_{name}"] = as_numpy(c.mean_abs)
        columns[f"se_{name}"] = as_numpy(c.mean_se)
        columns[f"se_abs_{name}"] = as_numpy(c.mean_abs_se)
        ends = mean_interval(c.by_cluster(c.window_abs_sum), c.by_cluster(c.window_n), c.mean_abs_se, 0.0)
        for place, end in enumerate(("ci_low", "ci_high")):
            columns[f"{end}_abs_{name}"] = pl.Series([both[place] for both in ends], dtype=pl.Float64)
        columns[f"error_bound_{name}"] = as_numpy(c.error_bound)
        columns[f"sign_{name}"] = signs_of(c)
    for name, curve in curves.items():
        suffix = "" if name == RARE else f"_{name}"
        fit = curve.regimes.fit
        top = RAISED_TOP if not isinstance(fit, Undefined) and fit.raised else FLATTENING_TOP
        labels = [top if label == PLATEAU else label or None for label in curve.regimes.label.tolist()]
        columns[f"rank{suffix}"] = curve.regimes.rank
        columns[f"regime{suffix}"] = pl.Series(labels, dtype=pl.String)
        resampled = curve.resampled
        columns[f"stable_share{suffix}"] = (
            np.full(neurons, np.nan) if isinstance(resampled, Undefined) else resampled.stable_share
        )
    columns["mean_activation"] = as_numpy(moments.mean)
    columns["sd_activation"] = as_numpy(moments.variance.sqrt())
    columns["positive_share"] = as_numpy(moments.positive)
    columns["norm"] = as_numpy(rows.double().norm(dim=1))
    columns |= further
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))


def window_table(step: int, layer: int, result: Influence, curves: Mapping[str, Curve]) -> pl.DataFrame:
    """Sums of Δ and |Δ| by window for plateau candidates, and by frequency decile for every neuron."""
    candidates = plateau_candidates(result, curves)
    frames = []
    for name, c in result.classes.items():
        window_sums = c.window_sum[:, candidates], c.window_abs_sum[:, candidates]
        deciles, neurons = map(torch.arange, c.decile_sum.shape)
        for kind, sums in (
            ("window", _sums(c.window_ids, candidates, c.window_n, *window_sums)),
            ("decile", _sums(deciles, neurons, c.decile_n, c.decile_sum, c.decile_abs_sum)),
        ):
            frames.append(
                sums.select(
                    pl.lit(step, pl.Int64).alias("step"),
                    pl.lit(kind).alias("kind"),
                    pl.lit(name, pl.String).alias("token_class"),
                    pl.lit(layer, pl.Int64).alias("layer"),
                    pl.all(),
                )
            )
    return pl.concat(frames)


def _sums(index: Tensor, neurons: Tensor, n: Tensor, sums: Tensor, abs_sums: Tensor) -> pl.DataFrame:
    """A row for each of the indices (k,), of n (k,) positions, and neurons (f,); sums and abs_sums are (k, f)."""
    return pl.DataFrame(
        {
            "index": np.repeat(as_numpy(index), len(neurons)),
            "neuron": np.tile(as_numpy(neurons), len(index)),
            "n": np.repeat(as_numpy(n), len(neurons)),
            "sum_delta": as_numpy(sums).ravel(),
            "sum_abs_delta": as_numpy(abs_sums).ravel(),
        }
    )
