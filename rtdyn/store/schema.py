"""The tables of a run directory: their columns, and the records that fill them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

TABLES = ("metrics", "neurons", "windows", "curves")


METRIC_SCHEMA: dict[str, Any] = {
    "step": pl.Int64,
    "tokens_seen": pl.Int64,
    "analysis": pl.String,
    "metric": pl.String,
    "token_class": pl.String,
    "group": pl.String,
    "null": pl.String,
    "layer": pl.Int64,
    "head": pl.Int64,
    "value": pl.Float64,
    "null_mean": pl.Float64,
    "null_sd": pl.Float64,
    "p_value": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n": pl.Int64,
    "status": pl.String,
    "reason": pl.String,
}


CURVE_SCHEMA: dict[str, Any] = {
    "step": pl.Int64,
    "kind": pl.String,
    "token_class": pl.String,
    "group": pl.String,
    "half": pl.Int64,
    "layer": pl.Int64,
    "head": pl.Int64,
    "x": pl.Int64,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "fit": pl.Float64,
}
"""Numbers looked at as lines; `rtdyn.tables.curves` says what x, value, low, high and fit are for each kind."""
PSEUDO_INFLUENCE, ATTENTION, ATTENTION_FIRST, EIGENVALUE = (
    "pseudo_influence",
    "attention",
    "attention_first",
    "eigenvalue",
)
"""Kinds of curves/."""

STABLE = 0.5
"""Share of the bootstrap, `stable_share` of neurons/, in more than which a stable plateau neuron is a member."""


@dataclass(frozen=True)
class Metric:
    """One row of metrics/: a number, or why there is none."""

    analysis: str
    metric: str
    value: float | None
    token_class: str | None = None
    group: str | None = None
    null: str | None = None
    """What null_mean, null_sd and p_value belong to."""
    layer: int | None = None
    head: int | None = None
    null_mean: float | None = None
    null_sd: float | None = None
    p_value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class StepTables:
    """A step's results, as they are stored."""

    metrics: pl.DataFrame
    neurons: pl.DataFrame
    windows: pl.DataFrame
    curves: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CURVE_SCHEMA))
    """Empty where no analysis that draws lines was asked for."""
    fingerprint: str = ""
    """The weights', as text; kept in the metadata of metrics/, as it is no result. Empty: none was taken."""


def metric_frame(rows: list[Metric], step: int, tokens_seen: int | None) -> pl.DataFrame:
    """Rows of metrics/ in their stored form; one that lacks a number says why."""
    records = []
    for row in rows:
        lacks_null = row.null is not None and row.p_value is None
        if (row.value is None or lacks_null) != bool(row.reason) or (row.value is not None and row.value != row.value):
            raise ValueError(f"{row.analysis}/{row.metric}: a metric, and its null, has numbers or a reason for none")
        status = "ok" if row.value is not None else "undefined"
        records.append({"step": step, "tokens_seen": tokens_seen, "status": status, **asdict(row)})
    return pl.DataFrame(records, schema=METRIC_SCHEMA)
