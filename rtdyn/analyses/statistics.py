"""Standard errors and null comparisons that several analyses share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.undefined import Undefined


def _indicator(index: Tensor, size: int) -> Tensor:
    """float64 (size, n): 1 where index equals the row; a product with it sums groups in a fixed order on any device."""
    return (index == torch.arange(size, device=index.device)[:, None]).double()


def jackknife_se(statistic: Callable[[Tensor], Tensor], sums: Tensor, counts: Tensor) -> float:
    """Standard error, leaving out a window at a time, of a statistic of class means; NaN for one window.

    statistic maps means (w, F) to (w,); sums (w, F) and counts (w,) are those of the windows.
    """
    windows = len(counts)
    left = (sums.sum(0) - sums) / (counts.sum() - counts)[:, None]
    values = statistic(left)
    return (
        float(((values - values.mean()).square().sum() * (windows - 1) / windows).sqrt()) if windows > 1 else math.nan
    )


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


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
