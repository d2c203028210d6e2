"""The closing table: what the last step shows, and where everything lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.judge.scorecard import scorecard
from rtdyn.names import FLATTENING_TOP, RAISED_TOP, RARE
from rtdyn.parquet import read_parquet
from rtdyn.say_plain import say_plain
from rtdyn.store.run import Run, done_steps, table_file
from rtdyn.store.schema import AT_EDGE
from rtdyn.views.number import number, p_value
from rtdyn.views.terminal.cautions import rare_is_easier
from rtdyn.views.terminal.fitted import print_whole
from rtdyn.views.terminal.scorecard import open_claims

_ROWS = (
    ("positions", "ablation", "influence_mean", "n"),
    ("loss (nats)", "capture", "loss", "value"),
    ("mean influence (nats)", "ablation", "influence_mean", "value"),
    ("largest influence (nats)", "ablation", "influence_max", "value"),
    ("error bound of any neuron", "ablation", "error_bound_max", "value"),
    ("top: ranks 1 to", "regimes", "r1", "value"),
    ("power law: ranks to", "regimes", "r2", "value"),
    ("power-law exponent κ", "regimes", "kappa", "value"),
    ("excess of the top (log units)", "regimes", "excess", "value"),
    ("largest shape p", "regimes", "shape_p_value", "value"),
    ("stable plateau neurons", "regimes", "stable_plateau_size", "value"),
    ("censored neurons", "regimes", "censored", "value"),
)
CAUTION = (
    "A shape alone is no evidence: random numbers show one too, with the shape p given. Classes are measured on "
    "different numbers of positions; their censored neurons do not compare."
)

_LAYER_ROWS = (
    ("Hill α of the input rows", "hill_alpha_tenth"),
    ("weightwatcher α, input", "ww_alpha"),
    ("weightwatcher α, output", "ww_alpha_out"),
)
"""Of a run of weights alone; a gated MLP has several input matrices."""

_MAIN = (
    ("loss", "capture", "loss", "all"),
    ("rare loss", "capture", "loss", RARE),
    ("rare influence", "ablation", "influence_mean", RARE),
    ("rare excess", "regimes", "excess", RARE),
    ("shape p", "regimes", "shape_p_value", RARE),
)
"""Where suites stand side by side."""


def step_line(metrics: pl.DataFrame) -> str:
    """One step in one line: losses and the shape of the rare curve, or the layer's heavy tails."""
    if _is_weights_only(metrics):
        return ", ".join(f"{label} {value}" for label, value in _layer_cells(metrics))
    loss = {c: _cell(metrics, "capture", "loss", c, "value") for c in ("all", RARE)}
    return f"loss {loss['all']} (rare {loss[RARE]}), rare curve: {_shape(metrics, 'rare')}"


def print_summary(run: Run, console: Console) -> None:
    """The main numbers of the last stored step, and where everything lies."""
    metrics = print_last_step(run, list(done_steps(run)), console)
    said = [f"Everything is in {run.path}; `rtdyn report {run.path}` draws it"]
    if not _is_weights_only(metrics):
        said = [f"{said[0]}, `rtdyn claims {run.path}` judges the published claims"]
    for text in said:
        say_plain(console, text)


def print_last_step(run: Run, steps: Sequence[int], console: Console) -> pl.DataFrame:
    """The main numbers of the last of the stored steps, a column a class; returns its metrics."""
    metrics = read_parquet(table_file(run, "metrics", steps[-1]))
    classes, rows = summary_rows(metrics)
    title = escape(f"{run.manifest.suite}, step {steps[-1]}, {counted(len(steps), 'step')} stored")
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in classes:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    print_whole(table, console)
    if not _is_weights_only(metrics):
        for text in filter(None, (CAUTION, rare_is_easier(metrics), *_open_claims(run))):
            say_plain(console, text)
    return metrics


def _open_claims(run: Run) -> list[str]:
    """What would decide the claims that are open; nothing of a run with too few steps for a scorecard."""
    try:
        return open_claims(scorecard(run), run.manifest.design)
    except InputError:
        return []


def _is_weights_only(metrics: pl.DataFrame) -> bool:
    return metrics.filter(pl.col("analysis") == "capture").is_empty()


def _layer_cells(metrics: pl.DataFrame) -> list[tuple[str, str]]:
    """The layer's heavy tails, by label; `gate` and `up` name the matrices of a gated MLP."""
    whole = metrics.filter((pl.col("analysis") == "heavytail") & pl.col("group").is_null())
    cells = []
    for label, metric in _LAYER_ROWS:
        for row in whole.iter_rows(named=True):
            matrix = row["metric"].removeprefix(metric).removeprefix("_")
            if row["metric"].startswith(metric) and matrix in ("", "in", "gate", "up"):
                name = label if matrix in ("", "in") else f"{label} ({matrix})"
                cells.append((name, _value(row, "value")))
    return cells


def main_cells(metrics: pl.DataFrame) -> dict[str, str]:
    """One step's main numbers, by what they are called beside those of other suites; those not asked for are absent."""
    if _is_weights_only(metrics):
        return dict(_layer_cells(metrics))
    rows = {label: _row(metrics, *named) for label, *named in _MAIN}
    cells = {label: _value(row, "value") for label, row in rows.items() if row is not None}
    return {**cells, "rare shape": _shape(metrics, RARE)}


def summary_rows(metrics: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The token classes of one step's metrics, and rows of a label and a cell for each class.

    Of a run of weights alone there is one column, `layer`.
    """
    if _is_weights_only(metrics):
        return ["layer"], [list(cell) for cell in _layer_cells(metrics)]
    ablation = metrics.filter(pl.col("analysis") == "ablation")
    classes = ablation["token_class"].drop_nulls().unique(maintain_order=True).to_list()
    rows = [
        [label, *(_cell(metrics, analysis, metric, c, column) for c in classes)]
        for label, analysis, metric, column in _ROWS
    ]
    return classes, [*rows, ["shape", *(_shape(metrics, c) for c in classes)]]


def _row(metrics: pl.DataFrame, analysis: str, metric: str, token_class: str) -> dict[str, Any] | None:
    wanted = (pl.col("analysis") == analysis) & (pl.col("metric") == metric) & (pl.col("token_class") == token_class)
    rows = metrics.filter(wanted)
    return rows.row(0, named=True) if len(rows) else None


def _cell(metrics: pl.DataFrame, analysis: str, metric: str, token_class: str, column: str) -> str:
    row = _row(metrics, analysis, metric, token_class)
    if row is None:
        return "not asked for"
    return _value(row, column)


def _value(row: dict[str, Any], column: str) -> str:
    if row[column] is None:
        return "undefined"
    if column != "value":
        return number(row[column])
    if row["metric"] == "shape_p_value":
        return p_value(row["value"])
    return number(row["value"], row["ci_low"], row["ci_high"], at_edge=row["status"] == AT_EDGE)


def _shape(metrics: pl.DataFrame, token_class: str) -> str:
    row = _row(metrics, "regimes", "raised", token_class)
    if row is None:
        return "not asked for"
    if row["value"] is None:
        return f"undefined ({row['reason']})"
    return RAISED_TOP if row["value"] else FLATTENING_TOP
