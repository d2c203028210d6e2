"""The step at which an effect emerges in training (METHODS §9).

p-values over steps are adjusted by Benjamini & Hochberg (1995), p̃_(i) = min_{j ≥ i} m·p_(j)/j. The emergence step is
the first s_i with

    p̃_i … p̃_{i+2} ≤ α,   and p̃ ≤ α at 80 % or more of s_i … s_last.

It is bracketed by the sound checkpoint before it. Identical checkpoints have been left out by
`rtdyn.judge.trajectories` before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtdyn.counted import counted
from rtdyn.intervals import NORMAL_90, NORMAL_95
from rtdyn.judge.series import refuse_few

ALPHA = 0.05
"""The level of every test of a trajectory."""
LEAST_RUN = 3
"""Significant steps in a row that an emergence takes."""
LASTING = 0.8
"""Share of the remaining steps that have to be significant."""
ROUND_OFF = 1e-9
"""Noise that is assumed at least, as a share of the values' range."""


@dataclass(frozen=True)
class Emergence:
    """Where in training an effect appears and lasts."""

    step: int | None
    after: int | None
    """The sound checkpoint before `step`: it emerged in (after, step]. None if `step` is the first."""
    reason: str
    """Why there is no step, or that it is the first one measured; else empty."""
    adjusted: np.ndarray
    """float64 (k,): Benjamini–Hochberg adjusted p-values, NaN where undefined."""


def emergence(steps: np.ndarray | Sequence[int], p_values: np.ndarray | Sequence[float]) -> Emergence:
    """The first step of a run of ≥ LEAST_RUN significant steps that lasts for LASTING of the remaining ones.

    steps (k,) ascending, p_values (k,), NaN where undefined. Significant: adjusted p ≤ ALPHA. An undefined step is
    no test, so Benjamini–Hochberg leaves it out, and it is not significant: it ends a run and counts among the
    remaining. Remaining steps are those from the emergence step on, itself included. Raises InputError under 3 steps,
    ValueError for steps that do not ascend or p-values outside [0, 1].
    """
    from scipy.stats import false_discovery_control

    at, p = np.asarray(steps, dtype=np.int64), np.asarray(p_values, dtype=np.float64)
    refuse_few(len(at))
    if len(p) != len(at) or (np.diff(at) <= 0).any():
        raise ValueError("steps ascend, with a p-value each")
    if ((p < 0) | (p > 1)).any():
        raise ValueError("a p-value lies in [0, 1]")
    adjusted, tested = np.full(len(p), math.nan), ~np.isnan(p)
    if tested.any():
        adjusted[tested] = false_discovery_control(p[tested])
    significant = np.nan_to_num(adjusted, nan=1.0) <= ALPHA
    for i in range(len(at) - LEAST_RUN + 1):
        remaining = significant[i:]
        if remaining[:LEAST_RUN].all() and remaining.sum() >= LASTING * len(remaining) - ROUND_OFF:
            reason = "" if i else "significant from the first step on"
            return Emergence(int(at[i]), int(at[i - 1]) if i else None, reason, adjusted)
    return Emergence(None, None, _no_emergence(p, significant), adjusted)


def _no_emergence(p: np.ndarray, significant: np.ndarray) -> str:
    if np.isnan(p).all():
        return "undefined at every step"
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], significant.astype(int), [0]]))))[::2]
    longest = int(runs.max(initial=0))
    if longest < LEAST_RUN:
        return f"at most {counted(longest, 'significant step')} in a row at alpha {ALPHA:g}, under {LEAST_RUN}"
    return f"no run of significant steps lasts for {LASTING:.0%} of the remaining ones"


def beyond_p(
    value: np.ndarray, ci_low: np.ndarray, ci_high: np.ndarray, clusters: np.ndarray, bound: float, side: int
) -> np.ndarray:
    """One-sided p-values (k,) that the quantity lies above (side +1) or below (−1) `bound`; NaN where undefined.

    From 95 % intervals, each side having its own width: p = T(−t·(centre − bound)/(centre − ci_low)) for side +1. T is
    Student's distribution with clusters − 1 degrees of freedom, t its quantile at 0.975. Where clusters is NaN, T is
    normal. So p ≤ 0.025 just where the interval excludes `bound`.
    """
    from scipy.special import stdtr

    centre = interval_centre(value, ci_low, ci_high)
    width = centre - ci_low if side > 0 else ci_high - centre
    distance = side * (centre - bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = _quantiles(clusters, 0.95)
        t = np.where(width > 0, reach * distance / width, np.where(distance > 0, math.inf, -math.inf))
    t[np.isnan(width) | np.isnan(distance)] = math.nan
    return np.asarray(stdtr(np.where(np.isnan(clusters), math.inf, clusters - 1), -t))


def _quantiles(clusters: np.ndarray, share: float) -> np.ndarray:
    """Standard errors on either side of an interval (k,); normal ones where clusters (k,) is NaN."""
    from scipy.special import stdtrit

    normal = NORMAL_95 if share == 0.95 else NORMAL_90
    known = np.nan_to_num(clusters, nan=2.0)
    return np.where(np.isnan(clusters), normal, stdtrit(known - 1, (1 + share) / 2))


def interval_centre(value: np.ndarray, ci_low: np.ndarray, ci_high: np.ndarray) -> np.ndarray:
    """What an interval is measured from: the value, or the middle where a bias correction has moved it out of it."""
    inside = ((ci_low <= value) & (value <= ci_high)) | np.isnan(value)
    return np.where(inside, value, (ci_low + ci_high) / 2)


def interval_90(
    value: np.ndarray, ci_low: np.ndarray, ci_high: np.ndarray, clusters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """90 % intervals (k,), (k,) from 95 % ones: each side shrinks about the value by the ratio of t quantiles."""
    centre = interval_centre(value, ci_low, ci_high)
    ratio = _quantiles(clusters, 0.9) / _quantiles(clusters, 0.95)
    return centre - ratio * (centre - ci_low), centre + ratio * (ci_high - centre)
