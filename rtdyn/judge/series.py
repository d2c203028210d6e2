"""One metric over the steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.judge.trajectories import MIN_STEPS
from rtdyn.store.schema import AT_EDGE

_NUMBERS = ("value", "ci_low", "ci_high", "null_mean", "null_sd", "p_value", "clusters")
NOT_STORED = "not measured at this step"


@dataclass(frozen=True)
class Selection:
    """Which rows of metrics/ are one series.

    None leaves group and layer open, and prefers the rows that name no null and no head. Where there are none it takes
    all, and the series has no null if theirs differ. Rows of `token_class` are taken, or those of no class where the
    metric has none by class. Where rows of `null` are missing, the value is taken from the others, without a null.
    """

    analysis: str
    metric: str
    token_class: str | None = None
    group: str | None = None
    null: str | None = None
    layer: int | None = None


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
    clusters: np.ndarray
    """Independent pieces of text that the interval is from."""
    at_edge: tuple[bool, ...]
    """Whether the value is the last that could be found; (k,)."""
    reasons: tuple[str, ...]
    """Why the value is undefined, empty where it is not; (k,)."""
    null_reasons: tuple[str, ...]
    """Why a defined value has no null; (k,)."""


def series(metrics: pl.DataFrame, selection: Selection) -> Series:
    """One stored metric over all steps of `metrics`, as `rtdyn.judge.trajectories` gives them.

    A step without a row is undefined. Raises InputError if a step has rows that contradict each other, which a closer
    selection tells apart, or if fewer than three steps are there.
    """
    steps = metrics.select("step", "tokens_seen").unique(subset="step", keep="any").sort("step")
    refuse_few(steps.height)
    rows = _matching(metrics, selection)
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in rows.to_dicts():
        by_step.setdefault(row["step"], []).append(row)
    records = [_record(by_step.get(int(s)), selection) for s in steps["step"]]
    columns = {name: np.array([math.nan if r[name] is None else float(r[name]) for r in records]) for name in _NUMBERS}
    return Series(
        steps=steps["step"].to_numpy(),
        tokens_seen=steps["tokens_seen"].cast(pl.Float64).fill_null(math.nan).to_numpy(),
        at_edge=tuple(bool(r["at_edge"]) for r in records),
        reasons=tuple(r["reason"] or "" for r in records),
        null_reasons=tuple(r["null_reason"] or "" for r in records),
        **columns,
    )


def one_step(metrics: pl.DataFrame, selection: Selection) -> dict[str, Any]:
    """The selection's one observation in a step's rows: value and interval by their columns' names, and its null's.

    Raises InputError for rows that contradict each other.
    """
    return _record(_matching(metrics, selection).to_dicts(), selection)


def refuse_few(steps: int) -> None:
    """Raises InputError for fewer distinct steps than a trajectory needs."""
    if steps < MIN_STEPS:
        raise InputError(f"{counted(steps, 'distinct step')}, under {MIN_STEPS}; a trajectory needs more")


def _matching(metrics: pl.DataFrame, selection: Selection) -> pl.DataFrame:
    """The selection's rows: one a step, or several that should agree."""
    rows = metrics.filter(pl.col("analysis") == selection.analysis, pl.col("metric") == selection.metric)
    if selection.group is not None:
        rows = rows.filter(pl.col("group") == selection.group)
    if selection.layer is not None:
        rows = rows.filter(pl.col("layer") == selection.layer)
    rows = _preferring(rows, "head", None)
    if selection.token_class is not None:
        of_class = rows.filter(token_class=selection.token_class)
        rows = of_class if of_class.height else rows.filter(pl.col("token_class").is_null())
    return _preferring(rows, "null", selection.null)


def _preferring(rows: pl.DataFrame, column: str, wanted: str | None) -> pl.DataFrame:
    """At each step the rows whose `column` is `wanted`, or all of them where none is."""
    match = pl.col(column).eq_missing(pl.lit(wanted))
    return rows.filter(match | ~match.any().over("step"))


def _record(rows: list[dict[str, Any]] | None, selection: Selection) -> dict[str, Any]:
    """The one observation in a step's rows: value and interval, and what they agree on about the null."""
    defined = [row for row in rows or () if row["value"] is not None]
    if not defined:
        reason = next((row["reason"] for row in rows or ()), NOT_STORED)
        return dict.fromkeys((*_NUMBERS, "at_edge", "null_reason")) | {"reason": reason}
    record: dict[str, Any] = {"reason": None, "at_edge": any(row["status"] == AT_EDGE for row in defined)}
    for column in _NUMBERS:
        values = {row[column] for row in defined} - {None}
        record[column] = values.pop() if len(values) == 1 else None
        if values and column in ("value", "ci_low", "ci_high"):
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
