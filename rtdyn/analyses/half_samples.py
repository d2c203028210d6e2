"""What a statistic would be on endless text, from halves of the text at hand.

A statistic that selects, as a maximum or a ranked curve does, errs by about b/n on n independent pieces of text. Noise
lifts what happens to lie on top (the winner's curse). A half errs by twice that. So 2·θ − (mean of θ over halves) has
no error of order 1/n. It is the jackknife of order two that Quenouille 1949 proposed, over random halves. The scatter
of θ over halves is its standard error on the whole (half-samples, McCarthy 1969). Halves of halves give the corrected
value of each half. Their scatter is the standard error of the corrected value. Halves come in complementary pairs. The
largest of several numbers that are truly equal errs by b/√n instead: 2 − √2 of that, 59 %, is left.

A fit may leap from one boundary to another, and its numbers with it. Where the whole text has one and some halves the
other, the scatter has two humps, of which a standard error knows nothing. The interval then reaches for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.statistics import Estimate
from rtdyn.counted import counted
from rtdyn.intervals import t_interval
from rtdyn.undefined import Undefined

HALVES = 100
QUARTERS = 4
"""Halves of each half."""
MIN_CLUSTERS = 8
"""Independent pieces of text that it takes: under these a quarter is a single one."""


@dataclass(frozen=True)
class HalfSamples:
    """Random halves of g clusters, and halves of those; bool."""

    halves: np.ndarray
    """(HALVES, g)."""
    quarters: np.ndarray
    """(HALVES · QUARTERS, g): QUARTERS of each half in turn."""

    def weights(self) -> np.ndarray:
        """float64 (k, g): the whole, the halves and the quarters, in this order."""
        whole = np.ones((1, self.halves.shape[1]), dtype=bool)
        return np.concatenate([whole, self.halves, self.quarters]).astype(np.float64)


def half_samples(clusters: int, rng: np.random.Generator) -> HalfSamples | Undefined:
    """Draws the halves, or says that there are too few clusters."""
    if clusters < MIN_CLUSTERS:
        return Undefined(f"the class lies in {counted(clusters, 'independent piece')} of text, under {MIN_CLUSTERS}")
    halves = np.concatenate([_split(np.ones(clusters, dtype=bool), rng) for _ in range(HALVES // 2)])
    quarters = [_split(half, rng) for half in halves for _ in range(QUARTERS // 2)]
    return HalfSamples(halves, np.concatenate(quarters))


def _split(members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool (2, g): two random halves of the flagged clusters (g,)."""
    order = rng.permutation(np.flatnonzero(members))
    parts = np.zeros((2, len(members)), dtype=bool)
    parts[0, order[: len(order) // 2]] = True
    parts[1, order[len(order) // 2 :]] = True
    return parts


def means(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float64 (k, F): means over clusters with these weights (k, g); sums (g, F) and counts (g,) are the clusters'."""
    return (weights @ sums) / (weights @ counts)[:, None]


@dataclass(frozen=True)
class Corrected:
    """A statistic without its error of order 1/n."""

    value: float
    plain: float
    """On the text at hand, its selection left in."""
    se: float
    """Of `value`."""
    plain_se: float
    clusters: int
    halves: tuple[float, float]
    """Ends of the central 95 % of the statistic on halves."""
    scatter: tuple[float, float]
    """The same of corrected halves about their mean, drawn together so that their deviation is at most `se`."""

    def estimate(self) -> Estimate:
        """The corrected value with its t interval."""
        return Estimate(self.value, *t_interval(self.value, self.se, self.clusters), self.clusters)

    def estimate_with_leaps(self) -> Estimate:
        """The same of a statistic that leaps between values, whose scatter is not normal.

        The interval reaches as far as the t interval, as the statistic on halves, and as the scatter about the value.
        """
        t = self.estimate()
        if t.low is None or t.high is None:
            return t
        about = self.value + self.scatter[0], self.value + self.scatter[1]
        lows, highs = zip((t.low, t.high), self.halves, about, strict=True)
        return Estimate(self.value, min(lows), max(highs), self.clusters)


def corrected(values: np.ndarray, clusters: int) -> Corrected | Undefined:
    """From a statistic (k,) of the rows of `HalfSamples.weights`, NaN where it has none.

    The reason where the whole has none, or more than half of the halves or quarters.
    """
    whole, halves, quarters = float(values[0]), values[1 : 1 + HALVES], values[1 + HALVES :].reshape(HALVES, -1)
    if not math.isfinite(whole):
        return Undefined("it is undefined on the whole text")
    known, inner_known = np.isfinite(halves), np.isfinite(quarters).sum(1) > 1
    if 2 * known.sum() < HALVES or 2 * (known & inner_known).sum() < HALVES:
        return Undefined(f"{HALVES - int((known & inner_known).sum())} of {HALVES} halves of the text have no value")
    both = known & inner_known
    inner = quarters[both]
    within = np.nanmean(inner, axis=1)
    # of few quarters, the mean's own noise is taken out again
    noise = float((np.nanvar(inner, axis=1, ddof=1) / np.isfinite(inner).sum(1)).mean())
    of_halves = 2 * halves[both] - within
    variance = float(of_halves.var(ddof=1))
    plain_variance = float(halves[known].var(ddof=1))
    se = math.sqrt(max(variance - noise, plain_variance))
    closer = min(1.0, se / math.sqrt(variance)) if variance > 0 else 1.0
    return Corrected(
        2 * whole - float(halves[known].mean()),
        whole,
        se,
        math.sqrt(plain_variance),
        clusters,
        _central(halves[known]),
        _central(closer * (of_halves - of_halves.mean())),
    )


def _central(values: np.ndarray) -> tuple[float, float]:
    """Ends of the central 95 % of values (k,)."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
