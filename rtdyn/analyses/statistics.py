"""Standard errors and null comparisons that several analyses share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.intervals import normal_interval
from rtdyn.undefined import Undefined


def indicator(index: Tensor, size: int) -> Tensor:
    """float64 (size, n): 1 where index (n,) equals the row; a product with it sums groups in one order on any device.

    An index outside the rows, as −1, is summed nowhere.
    """
    return (index == torch.arange(size, device=index.device)[:, None]).double()


@dataclass(frozen=True)
class Clusters:
    """The w windows that hold positions of a class: positions of one window are not independent."""

    ids: Tensor
    """int64 (w,), ascending."""
    n: Tensor
    """int64 (w,): positions of the class in each."""
    index: Tensor
    """int64 (N,): each position's place in `ids`, −1 outside the class."""

    def indicator(self, positions: slice | Tensor) -> Tensor:
        """float64 (w, n): 1 where one of these positions, consecutive or flagged, lies in the window."""
        return indicator(self.index[positions], len(self.ids))


def clusters(windows: Tensor, member: Tensor) -> Clusters:
    """The windows of a class; windows int64 (N,), member bool (N,)."""
    ids, place, n = torch.unique(windows[member], return_inverse=True, return_counts=True)
    index = torch.full_like(windows, -1)
    index[member] = place
    return Clusters(ids, n, index)


def leave_one_out_se(values: Tensor) -> Tensor:
    """Jackknife standard error (…) from values (w, …), each without one window; NaN for one window."""
    windows = len(values)
    if windows < 2:
        return values.new_full(values.shape[1:], torch.nan)
    return ((values - values.mean(0)).square().sum(0) * (windows - 1) / windows).sqrt()


def jackknife_se(statistic: Callable[[Tensor], Tensor], sums: Tensor, counts: Tensor) -> float:
    """Standard error, leaving out a window at a time, of a statistic of class means; NaN for one window.

    statistic maps means (w, F) to (w,); sums (w, F) and counts (w,) are those of the windows.
    """
    left = (sums.sum(0) - sums) / (counts.sum() - counts)[:, None]
    return float(leave_one_out_se(statistic(left)))


def clustered_se(sums: Tensor, counts: Tensor) -> Tensor:
    """Standard error of Σ sums / Σ counts, rows of `sums` (w, F) being independent clusters; NaN for one."""
    n, clusters = counts.sum(), len(counts)
    if clusters < 2:
        return torch.full_like(sums[0], torch.nan)
    residuals = sums - counts[:, None] * (sums.sum(0) / n)
    return (residuals.square().sum(0) * clusters / (clusters - 1)).sqrt() / n


CLEAR_SE = 2.0
"""An influence is clear of zero beyond this many standard errors plus its error bound."""


def jackknife_spread(left: np.ndarray) -> np.ndarray:
    """Standard errors (...) of a statistic from its values left (n, ...), n > 1, each without one of n clusters."""
    n = len(left)
    return np.sqrt(((left - left.mean(0)) ** 2).sum(0) * (n - 1) / n)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """None, as `low`, where there is no standard error."""


def estimate(value: float, se: float) -> Estimate:
    """An estimate whose error is normal; se is not finite where it is unknown."""
    return Estimate(value, *normal_interval(value, se))


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
        return Undefined(f"only {len(null)} sets of the null have a value")
    at_most, at_least = int((null <= value).sum()), int((null >= value).sum())
    p = min(1.0, 2 * (1 + min(at_most, at_least)) / (len(null) + 1))
    return Comparison(float(null.mean()), float(null.std(ddof=1)), p)


def as_numpy(values: Tensor) -> np.ndarray:
    """The values of a tensor on any device, such as (F,) or (w, F), of the same shape and type."""
    return values.detach().cpu().numpy()
