"""Standard errors and null comparisons that several analyses share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.counted import counted
from rtdyn.intervals import skewed_interval, t_interval
from rtdyn.undefined import Undefined


def indicator(index: Tensor, size: int) -> Tensor:
    """float64 (size, n): 1 where index (n,) equals the row; a product with it sums groups in one order on any device.

    An index outside the rows, as −1, is summed nowhere.
    """
    return (index == torch.arange(size, device=index.device)[:, None]).double()


@dataclass(frozen=True)
class Clusters:
    """The g clusters, such as documents or windows, that hold positions of a class."""

    ids: Tensor
    """int64 (g,), ascending."""
    n: Tensor
    """int64 (g,): positions of the class in each."""
    index: Tensor
    """int64 (N,): each position's place in `ids`, −1 outside the class."""

    def indicator(self, positions: slice | Tensor) -> Tensor:
        """float64 (g, n): 1 where one of these positions, consecutive or flagged, lies in the cluster."""
        return indicator(self.index[positions], len(self.ids))


def clusters(labels: Tensor, member: Tensor) -> Clusters:
    """The clusters of a class; labels int64 (N,), each position's, and member bool (N,)."""
    ids, place, n = torch.unique(labels[member], return_inverse=True, return_counts=True)
    index = torch.full_like(labels, -1)
    index[member] = place
    return Clusters(ids, n, index)


def jackknife_se(left: np.ndarray) -> np.ndarray:
    """Standard errors (...) of a statistic from its values left (g, ...), each without one of g clusters; NaN for one.

    Efron & Stein 1981: the sum of squares about their mean, times (g − 1)/g.
    """
    n = len(left)
    return np.sqrt(((left - left.mean(0)) ** 2).sum(0) * (n - 1) / n) if n > 1 else np.full(left.shape[1:], np.nan)


def clustered_se(sums: Tensor, counts: Tensor, drift: Tensor | None = None) -> Tensor:
    """Standard error of Σ sums / Σ counts, rows of `sums` (g, F) being independent clusters; NaN for one.

    drift: (g, F), what each cluster adds to the ratio otherwise than by its own sums. A cluster without counts has
    such a part alone, and is none of those that degrees of freedom are counted of.
    """
    n, clusters = counts.sum(), int((counts > 0).sum())
    if clusters < 2:
        return torch.full_like(sums[0], torch.nan)
    residuals = (sums - counts[:, None] * (sums.sum(0) / n)) / n
    if drift is not None:
        residuals = residuals + drift
    return (residuals.square().sum(0) * clusters / (clusters - 1)).sqrt()


CLEAR_SE = 2.0
"""An influence is clear of zero beyond this many standard errors plus its error bound."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """None, as `low`, where there is no standard error."""
    clusters: int
    """Independent pieces of text that the interval is from."""


def mean_estimate(sums: Tensor, counts: Tensor, least: float = -math.inf) -> Estimate:
    """Σ sums / Σ counts, both (g,), rows being independent clusters, with an interval that allows for skewness.

    least: what no mean can be under.
    """
    ends = mean_interval(sums[:, None], counts, least=least)[0]
    return Estimate(float(sums.sum() / counts.sum()), *ends, len(counts))


def mean_interval(
    sums: Tensor, counts: Tensor, se: Tensor | None = None, least: float = -math.inf
) -> list[tuple[float | None, float | None]]:
    """95 % intervals, F of them, of Σ sums / Σ counts; sums (g, F), counts (g,); rows are independent clusters.

    se: (F,), where it is more than the clusters' own. least: what no mean can be under.

    The skewness is that of the clusters' means, each weighing as its counts. That of their sums would follow a single
    large cluster, and lean to where that one pulls the mean.
    """
    mean = sums.sum(0) / counts.sum()
    se = clustered_se(sums, counts) if se is None else se
    weight = counts.double() / counts.sum()
    residuals = sums.double() / counts[:, None] - mean
    spread = (weight @ residuals.square()).sqrt()
    of_means = torch.where(spread > 0, weight @ (residuals / spread.clamp(min=1e-300)).pow(3), 0.0)
    skewness = of_means * len(counts) ** 0.5 * weight.pow(3).sum() / weight.square().sum() ** 1.5
    ends = [
        skewed_interval(*numbers, len(counts))
        for numbers in zip(mean.tolist(), se.tolist(), skewness.tolist(), strict=True)
    ]
    return [_above(least, low, high) for low, high in ends]


def _above(least: float, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """The interval without what lies under `least`; none where nothing is left, as of a sampled mean under it."""
    return (None, None) if low is None or high is None or high < least else (max(low, least), high)


def estimate(value: float, se: float, clusters: int) -> Estimate:
    """An estimate with its t interval; se is of so many clusters, and not finite where it is unknown."""
    return Estimate(value, *t_interval(value, se, clusters), clusters)


@dataclass(frozen=True)
class Comparison:
    """A value among the values of its null."""

    null_mean: float
    null_sd: float
    p_value: float
    """Two-sided: min(1, 2 × the smaller tail), the value itself counted in."""

    def z(self, value: float) -> float | None:
        """The value in standard deviations of its null; None where these are 0."""
        return (value - self.null_mean) / self.null_sd if self.null_sd > 0 else None


def compare(value: float, null: np.ndarray) -> Comparison | Undefined:
    """`value` against null values (s,), NaN among them left out; the reason if fewer than 19 are left."""
    null = null[np.isfinite(null)]
    if len(null) < 19:
        return Undefined(f"only {counted(len(null), 'set')} of the null with a value")
    at_most, at_least = int((null <= value).sum()), int((null >= value).sum())
    p = min(1.0, 2 * (1 + min(at_most, at_least)) / (len(null) + 1))
    return Comparison(float(null.mean()), float(null.std(ddof=1)), p)


def as_numpy(values: Tensor) -> np.ndarray:
    """The values of a tensor on any device, such as (F,) or (w, F), of the same shape and type."""
    return values.detach().cpu().numpy()
