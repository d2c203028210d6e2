"""A layer's neurons together, in a few numbers (METHODS §11)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from rtdyn.analyses.earlier_layers.estimate import ClassMean, TextPieces
from rtdyn.analyses.earlier_layers.layer import LayerClass
from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.analyses.half_samples import corrected, half_samples, means
from rtdyn.analyses.statistics import Estimate, as_numpy, estimate, jackknife_se, mean_estimate
from rtdyn.analyses.top import TOP_SHARE
from rtdyn.counted import counted
from rtdyn.streams import stream
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class LayerSummary:
    """One class: total influence A_i = mean |Δ_ni|, in nats."""

    mean: Estimate
    """Over all neurons."""
    top_share: Estimate | Undefined
    """Of the summed influence, what the most influential TOP_SHARE of the neurons have, without the winner's curse."""
    direct_mean: Estimate
    """Of the direct effect, over all neurons."""
    sample_error: float | Undefined
    """Median over the neurons that were only sampled, of the mean of Δ."""
    sample_error_abs: float | Undefined
    """The same of the mean of |Δ|."""


def summarise_layer(c: LayerClass, sample: Sample, seed: int) -> LayerSummary:
    """Of one class. seed: of the halves of the text."""
    direct = c.direct
    return LayerSummary(
        mean=_mean(c.absolute, c.text),
        top_share=_top_share(c.absolute, c.text, sample, seed),
        direct_mean=mean_estimate(
            direct.by_cluster(direct.window_abs_sum.mean(1)), direct.by_cluster(direct.window_n), least=0.0
        ),
        sample_error=_median_error(c.signed, sample),
        sample_error_abs=_median_error(c.absolute, sample),
    )


def rare_excess(rare: LayerClass, common: LayerClass) -> Estimate | Undefined:
    """Mean influence of all neurons on the rare class less that on the common one."""
    sums = np.stack([as_numpy(c.text.by_piece(c.absolute.window_sum.mean(1))) for c in (rare, common)])
    counts = np.stack([as_numpy(c.text.by_piece(c.text.window_n)) for c in (rare, common)])
    held = (counts > 0).any(0)
    sums, counts = sums[:, held], counts[:, held]
    left_n = counts.sum(1, keepdims=True) - counts
    if (left_n == 0).any():
        return Undefined("one piece of the text holds all positions of a class")
    left = (sums.sum(1, keepdims=True) - sums) / left_n
    value = sums.sum(1) / counts.sum(1)
    clusters = int(held.sum())
    return estimate(float(value[0] - value[1]), float(jackknife_se(left[0] - left[1])), clusters)


def _mean(mean: ClassMean, text: TextPieces) -> Estimate:
    sums, counts = text.by_piece(mean.window_sum.mean(1)), text.by_piece(text.window_n)
    held = counts > 0
    return mean_estimate(sums[held], counts[held], least=0.0)


def _top_share(mean: ClassMean, text: TextPieces, sample: Sample, seed: int) -> Estimate | Undefined:
    """The top is of neurons that were measured on all windows; the others enter the sum alone."""
    measured = sample.measured
    count = math.ceil(TOP_SHARE * len(measured))
    if count > int(measured.sum()):
        return Undefined(f"{counted(int(measured.sum()), 'measured neuron')}, fewer than the top {TOP_SHARE:.0%}")
    if not mean.value.any():
        return Undefined("every neuron's influence is 0")
    counts = text.by_piece(text.window_n)
    held = counts > 0
    by_piece = text.by_piece(mean.window_sum)[held]
    columns = torch.cat([by_piece[:, torch.from_numpy(measured)], by_piece.sum(1, keepdim=True)], dim=1)
    samples = half_samples(int(held.sum()), stream(seed, "resampled text"))
    if isinstance(samples, Undefined):
        return samples
    values = means(samples.weights(), as_numpy(columns), as_numpy(counts[held]))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.partition(values[:, :-1], -count, axis=1)[:, -count:].sum(1) / values[:, -1])
    share = corrected(logs, int(held.sum()))
    if isinstance(share, Undefined):
        return share
    on_logs = share.estimate()
    low, high = (None if end is None else math.exp(end) for end in (on_logs.low, on_logs.high))
    return Estimate(math.exp(on_logs.value), low, high, on_logs.clusters)


def _median_error(mean: ClassMean, sample: Sample) -> float | Undefined:
    errors = mean.sample_error[~sample.measured]
    if len(errors) == 0:
        return Undefined("every neuron was measured on all windows")
    if np.isnan(errors).any():
        return Undefined("too few neurons were measured to calibrate it")
    return float(np.median(errors))
