"""Results of the analyses as the rows and columns that are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from rtdyn.analyses.groups.choose import TOP_SHARE, top_size
from rtdyn.analyses.influence.ablation import ClassInfluence, Influence
from rtdyn.analyses.regimes.curve import Curve
from rtdyn.analyses.statistics import CLEAR_SE, clustered_se, jackknife_se
from rtdyn.capture.forward_pass import Capture
from rtdyn.intervals import normal_interval
from rtdyn.names import PLATEAU, RARE
from rtdyn.store.schema import Metric


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
    low, high = normal_interval(mean, float(clustered_se(sums, torch.from_numpy(counts))[0]))
    return Metric("capture", "loss", mean, token_class=name, ci_low=low, ci_high=high, n=len(loss))


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
            low, high = normal_interval(value, jackknife_se(statistic, c.window_abs_sum, c.window_n))
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
        suffix = "" if name == RARE else f"_{name}"
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
    rare: ClassInfluence = result.classes[RARE]
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
