"""The influence of all neurons on each class in a few numbers (METHODS §2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.half_samples import Corrected, corrected, half_samples, means
from rtdyn.analyses.influence.ablation import ClassInfluence, Influence
from rtdyn.analyses.influence.signs import signs_of
from rtdyn.analyses.statistics import Estimate, as_numpy, mean_estimate
from rtdyn.analyses.top import TOP_SHARE
from rtdyn.streams import stream
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class InfluenceSummary:
    """The influence A_i = mean |Δ_ni| of all neurons on one class; in nats."""

    n: int
    """Positions."""
    mean: Estimate | Undefined
    largest: Estimate | Undefined
    """Without the winner's curse (`half_samples`), as is the share."""
    top_share: Estimate | Undefined
    """Share of the sum that the most influential TOP_SHARE of the neurons have."""
    boosting: int
    """Neurons whose mean Δ is clear above zero (`signs`): they help."""
    suppressing: int
    """Neurons whose mean Δ is clear below zero."""
    error_bound: float
    """The largest of any neuron."""


def summarise(result: Influence, seed: int) -> dict[str, InfluenceSummary]:
    """By class. seed: of the halves of the text."""
    return {name: summarise_class(c, seed) for name, c in result.classes.items()}


def summarise_class(c: ClassInfluence, seed: int) -> InfluenceSummary:
    """Of one class."""
    signs = signs_of(c)
    largest, top_share = _of_the_top(c, seed)
    return InfluenceSummary(
        n=c.n,
        mean=_mean(c),
        largest=largest,
        top_share=top_share,
        boosting=int((signs > 0).sum()),
        suppressing=int((signs < 0).sum()),
        error_bound=float(c.error_bound.max()),
    )


def _mean(c: ClassInfluence) -> Estimate:
    """Of all neurons: one number for each cluster, so that its standard error is that of a mean."""
    return mean_estimate(c.by_cluster(c.window_abs_sum.mean(1)), c.by_cluster(c.window_n), least=0.0)


def _of_the_top(c: ClassInfluence, seed: int) -> tuple[Estimate | Undefined, Estimate | Undefined]:
    """The largest influence and the share of the top, both without the winner's curse."""
    if not bool((c.mean_abs > 0).any()):
        silent = Undefined("every neuron's influence is 0")
        return Estimate(0.0, None, None, c.clusters), silent
    count = math.ceil(TOP_SHARE * len(c.mean_abs))
    samples = half_samples(c.clusters, stream(seed, "resampled text"))
    if isinstance(samples, Undefined):
        return samples, samples
    sums, counts = as_numpy(c.by_cluster(c.window_abs_sum)), as_numpy(c.by_cluster(c.window_n))
    values = _largest_and_share(means(samples.weights(), sums, counts), count)
    largest, share = (corrected(of_samples, c.clusters) for of_samples in np.log(values))
    return _exponential(largest), _exponential(share)


def _exponential(logarithm: Corrected | Undefined) -> Estimate | Undefined:
    """The estimate whose logarithm this is."""
    if isinstance(logarithm, Undefined):
        return logarithm
    on_logs = logarithm.estimate()
    low, high = (None if end is None else math.exp(end) for end in (on_logs.low, on_logs.high))
    return Estimate(math.exp(on_logs.value), low, high, on_logs.clusters)


def _largest_and_share(influence: np.ndarray, count: int) -> np.ndarray:
    """(2, k): the largest of each row of influence (k, F), and what the `count` largest are of its sum."""
    top = np.partition(influence, -count, axis=1)[:, -count:]
    return np.stack([top.max(1), top.sum(1) / influence.sum(1)])
