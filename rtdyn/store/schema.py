"""The tables of a run directory: their columns, and the records that fill them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

TABLES = ("metrics", "neurons", "windows", "curves")
DOMAIN_TABLES = ("domains", "domain_neurons")
"""Of a run that measures domains, beside the others."""

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
    "clusters": pl.Int64,
    "status": pl.String,
    "reason": pl.String,
}

DOMAIN_SCHEMA: dict[str, Any] = {"domain": pl.String, **METRIC_SCHEMA}

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
PSEUDO_INFLUENCE, ATTENTION, ATTENTION_FIRST, EIGENVALUE, HILL, SELECTED_HILL = (
    "pseudo_influence",
    "attention",
    "attention_first",
    "eigenvalue",
    "hill_alpha",
    "selected_hill_alpha",
)
"""Kinds of curves/."""

STABLE = 0.5
"""Share of halves of the text, `stable_share` of neurons/, in more than which a stable plateau neuron is a member."""
PLAIN = "_plain"
"""What a metric's name ends with whose selection or noise is left in, beside its corrected one."""
OK, UNDEFINED, AT_EDGE = "ok", "undefined", "at_edge"
"""What `status` says of a row of metrics/."""


@dataclass(frozen=True)
class Metric:
    """One row of metrics/: a number, or why there is none."""

    analysis: str
    """The analysis that measured it, by its name on the command line; `capture` and `groups` for what all share."""
    metric: str
    """What is measured; the name fixes the unit (nats, a share, a count or none), as `docs/metrics.md` says."""
    value: float | None
    """The number in the metric's unit, finite; None where it is undefined."""
    token_class: str | None = None
    """Class of the targets that it is measured on; None where it depends on none."""
    group: str | None = None
    """Group of neurons that it belongs to; None for all neurons of the layer, or none."""
    null: str | None = None
    """What null_mean, null_sd and p_value belong to; None without a null."""
    layer: int | None = None
    """Index of the layer, from 0; None where no single layer is measured."""
    head: int | None = None
    """Index of the attention head in its layer, from 0; None where no single head is measured."""
    null_mean: float | None = None
    """Mean of the metric under the null, in the metric's unit."""
    null_sd: float | None = None
    """Standard deviation of the metric under the null, in the metric's unit."""
    p_value: float | None = None
    """Probability under the null of a value as far out, 0 to 1."""
    ci_low: float | None = None
    """Lower end of the value's 95 % interval, in the metric's unit; None where none is estimated."""
    ci_high: float | None = None
    """Upper end of the value's 95 % interval, in the metric's unit; None where none is estimated."""
    n: int | None = None
    """How many things the value is over: positions, neurons, pairs or pseudo-classes, as the metric has it."""
    clusters: int | None = None
    """Independent pieces of text, documents or blocks, that the interval is from; None where it is not from text."""
    at_edge: bool = False
    """Whether the value is the last that could be found: it says only that the quantity is as far or farther."""
    reason: str | None = None
    """Why there is no value, or no null where one is named, in one clause; None where all is defined."""


@dataclass(frozen=True)
class StepTables:
    """A step's results, as they are stored."""

    metrics: pl.DataFrame
    """A row a number: analysis, metric, class, group, value, interval, null."""
    neurons: pl.DataFrame
    """A row a neuron of a measured layer: influence on each class, its errors, rank, regime."""
    windows: pl.DataFrame
    """Sums of influence by evaluation window and by frequency decile."""
    curves: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CURVE_SCHEMA))
    """Lines to draw; empty where no analysis that draws any was asked for."""
    fingerprint: str = ""
    """Fingerprint of the weights, as text; empty where none was taken. A run keeps it in the metadata of metrics/."""
    domains: pl.DataFrame | None = None
    """Rows as of `metrics`, each with its domain; None in a run without domains."""
    domain_neurons: pl.DataFrame | None = None
    """A row a domain and neuron of the final MLP; None in a run without domains."""


def metric_frame(rows: list[Metric], step: int, tokens_seen: int | None) -> pl.DataFrame:
    """Rows of metrics/ in their stored form; one that lacks a number says why."""
    records = []
    for row in rows:
        lacks_null = row.null is not None and row.p_value is None
        if (row.value is None or lacks_null) != bool(row.reason) or (row.value is not None and row.value != row.value):
            raise ValueError(f"{row.analysis}/{row.metric}: a metric, and its null, has numbers or a reason for none")
        columns = asdict(row)
        edge = columns.pop("at_edge")
        status = UNDEFINED if row.value is None else AT_EDGE if edge else OK
        records.append({"step": step, "tokens_seen": tokens_seen, "status": status, **columns})
    return pl.DataFrame(records, schema=METRIC_SCHEMA)
