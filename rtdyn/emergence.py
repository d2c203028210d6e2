"""Metrics over training: series, the step at which an effect emerges, change points and trends (METHODS §9).

Emergence: p-values over steps are adjusted by Benjamini & Hochberg (1995), p̃_(i) = min_{j ≥ i} m·p_(j)/j; the emergence
step is the first s_i with p̃_i … p̃_{i+2} ≤ α and p̃ ≤ α at 80 % or more of s_i … s_last. It is bracketed by the sound
checkpoint before it. Change points minimise Σ_segments min_{a,b} Σ (y − a − b·x)² + β·(changes), x = ln(step + 1).
Trends are Theil–Sen slopes over the same x with the interval of Sen (1968), from Kendall's exact distribution.
Everything is read from the store; identical checkpoints have been left out by `rtdyn.trajectories` before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import polars as pl

from rtdyn.errors import InputError
from rtdyn.normal import NORMAL_95
from rtdyn.trajectories import MIN_STEPS

NORMAL_90 = 1.6448536269514722
ALPHA = 0.05
LEAST_RUN = 3
LASTING = 0.8
MIN_SEGMENT = 3
PENALTY_SCALE = 2.0
"""β in units of the Bayesian information criterion's penalty; `change_points` states the false alarms it leaves."""
ROUND_OFF = 1e-9
"""Noise that is assumed at least, as a share of the values' range."""
NOT_STORED = "not measured at this step"


@dataclass(frozen=True)
class Selection:
    """Which rows of metrics/ are one series.

    None leaves group and layer open, and prefers the rows that name no null and no head; where there are none it takes
    all, and the series has no null if theirs differ. Rows of `token_class` are taken, or those of no class where the
    metric has none by class. Where rows of `null` are missing, the value is taken from the others, without a null.
    """

    analysis: str
    metric: str
    token_class: str | None = None
    group: str | None = None
    null: str | None = None
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class Series:
    """One metric over the k sound steps, ascending; NaN where undefined."""

    steps: np.ndarray
    """int64 (k,)."""
    tokens_seen: np.ndarray
    """float64 (k,), NaN where the suite does not say."""
    value: np.ndarray
    """float64 (k,), as are the six that follow."""
    ci_low: np.ndarray
    ci_high: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    p_value: np.ndarray
    n: np.ndarray
    reasons: tuple[str, ...]
    """Why the value is undefined, empty where it is not; (k,)."""
    null_reasons: tuple[str, ...]
    """Why a defined value has no null; (k,)."""


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


@dataclass(frozen=True)
class Segment:
    """A stretch of training on which the series follows one line (or one level)."""

    first: int
    last: int
    """First and last step."""
    level: float
    """Mean of the values."""
    slope: float
    """Per unit of ln(step + 1); 0 under the model `constant`."""


@dataclass(frozen=True)
class ChangePoints:
    """The best segmentation of a series."""

    steps: tuple[int, ...]
    """First step of each new segment."""
    after: tuple[int, ...]
    """Last step of the segment before: the change lies in (after, step]."""
    segments: tuple[Segment, ...]
    noise: float
    """Standard deviation of an observation, in the metric's units."""
    penalty: float
    """Squared error that a change point has to remove."""


@dataclass(frozen=True)
class Trend:
    """Theil–Sen slope per unit of ln(step + 1), with its 95 % interval."""

    slope: float
    low: float
    high: float
    n: int


def series(metrics: pl.DataFrame, selection: Selection) -> Series:
    """One stored metric over all steps of `metrics`, as `rtdyn.trajectories.trajectories` gives them.

    A step without a row is undefined. Raises InputError if a step has rows that contradict each other, which a closer
    selection tells apart, or if fewer than three steps are there.
    """
    steps = metrics.select("step", "tokens_seen").unique(subset="step", keep="any").sort("step")
    _refuse_few(steps.height)
    rows = _matching(metrics, selection)
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in rows.to_dicts():
        by_step.setdefault(row["step"], []).append(row)
    records = [_record(by_step.get(int(s)), selection) for s in steps["step"]]
    columns = {
        name: np.array([math.nan if r[name] is None else float(r[name]) for r in records])
        for name in ("value", "ci_low", "ci_high", "null_mean", "null_sd", "p_value", "n")
    }
    return Series(
        steps=steps["step"].to_numpy(),
        tokens_seen=steps["tokens_seen"].cast(pl.Float64).fill_null(math.nan).to_numpy(),
        reasons=tuple(r["reason"] or "" for r in records),
        null_reasons=tuple(r["null_reason"] or "" for r in records),
        **columns,
    )


def _refuse_few(steps: int) -> None:
    if steps < MIN_STEPS:
        raise InputError(f"{steps} distinct steps, under {MIN_STEPS}; a trajectory needs more")


def _matching(metrics: pl.DataFrame, selection: Selection) -> pl.DataFrame:
    """The selection's rows: one a step, or several that should agree."""
    rows = metrics.filter(pl.col("analysis") == selection.analysis, pl.col("metric") == selection.metric)
    if selection.group is not None:
        rows = rows.filter(pl.col("group") == selection.group)
    if selection.layer is not None:
        rows = rows.filter(pl.col("layer") == selection.layer)
    rows = _preferring(rows, "head", selection.head) if selection.head is None else rows.filter(head=selection.head)
    if selection.token_class is not None:
        own = rows.filter(token_class=selection.token_class)
        rows = own if own.height else rows.filter(pl.col("token_class").is_null())
    return _preferring(rows, "null", selection.null)


def _preferring(rows: pl.DataFrame, column: str, wanted: str | int | None) -> pl.DataFrame:
    """At each step the rows whose `column` is `wanted`, or all of them where none is."""
    match = pl.col(column).eq_missing(pl.lit(wanted))
    return rows.filter(match | ~match.any().over("step"))


def _record(rows: list[dict[str, Any]] | None, selection: Selection) -> dict[str, Any]:
    """The one observation in a step's rows: value and interval, and what they agree on about the null."""
    columns = ("value", "ci_low", "ci_high", "n", "null_mean", "null_sd", "p_value")
    defined = [row for row in rows or () if row["value"] is not None]
    if not defined:
        reason = next((row["reason"] for row in rows or ()), NOT_STORED)
        return dict.fromkeys((*columns, "null_reason")) | {"reason": reason}
    record: dict[str, Any] = {"reason": None}
    for column in columns:
        found = {row[column] for row in defined} - {None}
        record[column] = found.pop() if len(found) == 1 else None
        if found and column in ("value", "ci_low", "ci_high"):
            raise InputError(
                f"step {defined[0]['step']} holds {len(defined)} rows of {selection.analysis}/{selection.metric} "
                f"with different {column}; name the token_class, group, null or layer that is meant"
            )
    named = {row["null"] for row in defined}
    record["null_reason"] = next((row["reason"] for row in defined if row["reason"]), None)
    if len(named) > 1 or selection.null not in (None, *named):
        missing = None if selection.null is None else f"its null ({selection.null}) is not stored"
        record |= {"null_mean": None, "null_sd": None, "p_value": None, "null_reason": missing}
    return record


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values (k,): the least false discovery rate at which each is significant. NaN takes no part."""
    adjusted = np.full(len(p_values), math.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    scaled = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def emergence(
    steps: np.ndarray | Sequence[int],
    p_values: np.ndarray | Sequence[float],
    *,
    alpha: float = ALPHA,
    least_run: int = LEAST_RUN,
    lasting: float = LASTING,
) -> Emergence:
    """The first step of a run of ≥ `least_run` significant steps that lasts for `lasting` of the remaining ones.

    steps (k,) ascending, p_values (k,), NaN where undefined. Significant: adjusted p ≤ alpha. An undefined step is
    no test, so Benjamini–Hochberg leaves it out, and it is not significant: it ends a run and counts among the
    remaining. Remaining steps are those from the emergence step on, itself included. Raises InputError under 3 steps,
    ValueError for steps that do not ascend or p-values outside [0, 1].
    """
    at, p = np.asarray(steps, dtype=np.int64), np.asarray(p_values, dtype=np.float64)
    _refuse_few(len(at))
    if len(p) != len(at) or (np.diff(at) <= 0).any():
        raise ValueError("steps ascend, with a p-value each")
    if ((p < 0) | (p > 1)).any():
        raise ValueError("a p-value lies in [0, 1]")
    adjusted = benjamini_hochberg(p)
    significant = np.nan_to_num(adjusted, nan=1.0) <= alpha
    for i in range(len(at) - least_run + 1):
        remaining = significant[i:]
        if remaining[:least_run].all() and remaining.sum() >= lasting * len(remaining) - ROUND_OFF:
            reason = "" if i else "significant from the first step on"
            return Emergence(int(at[i]), int(at[i - 1]) if i else None, reason, adjusted)
    return Emergence(None, None, _no_emergence(p, significant, alpha, least_run, lasting), adjusted)


def _no_emergence(p: np.ndarray, significant: np.ndarray, alpha: float, least_run: int, lasting: float) -> str:
    if np.isnan(p).all():
        return "undefined at every step"
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], significant.astype(int), [0]]))))[::2]
    longest = int(runs.max(initial=0))
    if longest < least_run:
        return f"at most {longest} significant steps in a row at alpha {alpha:g}, under {least_run}"
    return f"no run of significant steps lasts for {lasting:.0%} of the remaining ones"


def emergence_of_intervals(
    steps: np.ndarray | Sequence[int],
    value: np.ndarray,
    ci_low: np.ndarray,
    ci_high: np.ndarray,
    *,
    excluded: float = 0.0,
    side: int | None = None,
    alpha: float = ALPHA,
    least_run: int = LEAST_RUN,
    lasting: float = LASTING,
) -> Emergence:
    """The same for a metric that has a 95 % interval only: a step's p-value ≤ 0.05 where it excludes `excluded`.

    value, ci_low, ci_high (k,), NaN where undefined. side: +1 or −1 for an effect above or below, None for that of
    the last defined step; intervals on the other side count as p = 1, so that an effect that flips has not emerged.
    """
    defined = np.flatnonzero(~np.isnan(value))
    if side is None:
        side = 1 if len(defined) == 0 or value[defined[-1]] >= excluded else -1
    p = np.minimum(1.0, 2 * beyond_p(value, ci_low, ci_high, excluded, side))
    return emergence(steps, p, alpha=alpha, least_run=least_run, lasting=lasting)


def beyond_p(value: np.ndarray, ci_low: np.ndarray, ci_high: np.ndarray, bound: float, side: int) -> np.ndarray:
    """One-sided p-values (k,) that the quantity lies above (side +1) or below (−1) `bound`; NaN where undefined.

    From 95 % intervals by the normal distribution, each side of an interval having its own width:
    p = Φ(−1.96·(centre − bound)/(centre − ci_low)) for side +1. So p ≤ 0.025 just where the interval excludes `bound`.
    """
    centre = interval_centre(value, ci_low, ci_high)
    width = centre - ci_low if side > 0 else ci_high - centre
    distance = side * (centre - bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(width > 0, NORMAL_95 * distance / width, np.where(distance > 0, math.inf, -math.inf))
    z[np.isnan(width) | np.isnan(distance)] = math.nan
    return np.array([0.5 * math.erfc(x / math.sqrt(2)) for x in z])


def interval_centre(value: np.ndarray, ci_low: np.ndarray, ci_high: np.ndarray) -> np.ndarray:
    """What an interval is measured from: the value, or the middle where a bias correction has moved it out of it."""
    inside = ((ci_low <= value) & (value <= ci_high)) | np.isnan(value)
    return np.where(inside, value, (ci_low + ci_high) / 2)


def interval_90(value: np.ndarray, ci_low: np.ndarray, ci_high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """90 % intervals (k,), (k,) from 95 % ones: each side shrinks by the normal ratio 1.645/1.960 about the value."""
    centre, ratio = interval_centre(value, ci_low, ci_high), NORMAL_90 / NORMAL_95
    return centre - ratio * (centre - ci_low), centre + ratio * (ci_high - centre)


def change_points(
    steps: np.ndarray | Sequence[int],
    values: np.ndarray | Sequence[float],
    *,
    model: Literal["linear", "constant"] = "linear",
    noise: float | None = None,
    penalty_scale: float = PENALTY_SCALE,
    min_segment: int = MIN_SEGMENT,
) -> ChangePoints | str:
    """The segmentation of a series with least penalised squared error, or why there is none.

    steps (k,) ascending, values (k,), NaN where undefined and left out. `linear`: a line in ln(step + 1) on each
    segment, free to jump: uneven spacing is then just the regressor's, and a steady drift is not cut into a staircase.
    `constant`: a level on each segment, in order of observation, whatever the spacing. noise: standard deviation of an
    observation; by default the scaled median of second-order differences on the uneven x (Gasser et al. 1986), to which
    a line contributes nothing and a jump two values. Penalty a change: penalty_scale·p·noise²·ln k, with p = 3 free
    parameters (`linear`) or 2. Gaussian noise around one line, its size to be estimated, shows a change in 7 % of
    series of 12 steps, 5 % of 18, 3 % of 24 (Monte Carlo; `constant` 7, 6 and 4 %; scale 1 would give 19, 20 and 18 %).
    Dynamic programming over every segmentation: `ruptures`' PELT prunes the best one when segments have a least length.
    """
    from ruptures import Dynp

    at, y = np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)
    if len(at) != len(y) or (np.diff(at) <= 0).any():
        raise ValueError("steps ascend, with a value each")
    at, y = at[~np.isnan(y)], y[~np.isnan(y)]
    if len(y) < 2 * min_segment:
        return f"{len(y)} defined steps, under two segments of {min_segment}"
    if np.ptp(y) == 0:
        return ChangePoints((), (), (_segment(at, y, model),), 0.0, 0.0)
    # scaled, so that neither the metric's units nor a large mean costs digits
    centre, unit = float(y.mean()), float(np.ptp(y))
    scaled, x = (y - centre) / unit, np.log1p(at)
    sd = max(_noise(x, scaled) if noise is None else noise / unit, ROUND_OFF)
    penalty = penalty_scale * (3 if model == "linear" else 2) * sd**2 * math.log(len(y))
    signal = np.column_stack([scaled, np.ones_like(x), x - x.mean()]) if model == "linear" else scaled[:, None]
    search = Dynp(model="linear" if model == "linear" else "l2", min_size=min_segment, jump=1).fit(signal)
    best, least = [len(y)], float(search.cost.error(0, len(y)))
    for changes in range(1, len(y) // min_segment):
        if changes * penalty >= least:  # further changes cost more than all the error there is
            break
        ends = search.predict(changes)
        cost = float(search.cost.sum_of_costs(ends)) + changes * penalty
        if cost < least:
            best, least = ends, cost
    edges = [0, *best]
    return ChangePoints(
        steps=tuple(int(at[e]) for e in best[:-1]),
        after=tuple(int(at[e - 1]) for e in best[:-1]),
        segments=tuple(_segment(at[a:b], y[a:b], model) for a, b in zip(edges, best, strict=False)),
        noise=sd * unit,
        penalty=penalty * unit**2,
    )


def _segment(steps: np.ndarray, values: np.ndarray, model: str) -> Segment:
    x = np.log1p(steps)
    centred = x - x.mean()
    slope = float(centred @ values / (centred @ centred)) if model == "linear" else 0.0
    return Segment(int(steps[0]), int(steps[-1]), float(values.mean()), slope)


def _noise(x: np.ndarray, y: np.ndarray) -> float:
    """Robust standard deviation of y about whatever is locally a line in x."""
    left = (x[2:] - x[1:-1]) / (x[2:] - x[:-2])
    residual = (y[1:-1] - left * y[:-2] - (1 - left) * y[2:]) / np.sqrt(1 + left**2 + (1 - left) ** 2)
    median = 1.4826 * float(np.median(np.abs(residual)))
    # where most of the series is flat the median says nothing, and the jumps are all there is to judge by
    return median if median > ROUND_OFF else float(np.sqrt(np.mean(residual**2)))


def trend(steps: np.ndarray | Sequence[int], values: np.ndarray | Sequence[float]) -> Trend | str:
    """Median slope of all pairs of steps over ln(step + 1), with Sen's 95 % interval, or why there is none.

    steps (k,) ascending, values (k,), NaN left out. The interval holds the slopes that Kendall's S does not reject,
    by its exact distribution, so at least 95 % for any error distribution without ties; it takes the steps' errors as
    independent. Undefined under 5 steps, which cannot reject any slope.
    """
    at, y = np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)
    at, y = at[~np.isnan(y)], y[~np.isnan(y)]
    critical = _kendall_critical(len(y))
    if critical is None:
        return f"{len(y)} defined steps, too few to reject any slope"
    x = np.log1p(at)
    i, j = np.triu_indices(len(y), 1)
    slopes = np.sort((y[j] - y[i]) / (x[j] - x[i]))
    lowest = (len(slopes) - critical) // 2
    return Trend(float(np.median(slopes)), float(slopes[lowest]), float(slopes[-1 - lowest]), len(y))


@cache
def _kendall_critical(n: int) -> int | None:
    """The least c with P(|S| ≥ c) ≤ 0.05 for Kendall's S of n values without ties; None if there is none."""
    probability = np.ones(1)
    for size in range(2, n + 1):  # the number of inversions of `size` values: one uniform term on 0..size−1 more
        probability = np.convolve(probability, np.full(size, 1 / size))
    pairs = len(probability) - 1
    tail = 2 * np.cumsum(probability)[: (pairs + 1) // 2]
    rejected = np.flatnonzero(tail <= ALPHA)
    return pairs - 2 * int(rejected[-1]) if len(rejected) else None
