"""Every measured layer over training, and how good the first order is of each, as the store has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rtdyn.names import LAYERS, RARE
from rtdyn.views.number import number
from rtdyn.views.report.run_tables import RunTables


@dataclass(frozen=True)
class Quantity:
    """A number of each layer that a heat map shows."""

    name: str
    title: str
    unit: str
    earlier: tuple[str, str]
    """Analysis and metric in which layers before the last have it."""
    final: tuple[str, str]
    """The same of the last layer."""


QUANTITIES = (
    Quantity("top", "Share of the top 1 %, rare tokens", "of all influence", (LAYERS, "total_top_share"),
             ("ablation", "influence_top_share")),
    Quantity("rare", "Mean influence, rare − common", "nats", (LAYERS, "total_rare_excess"),
             (LAYERS, "total_rare_excess")),
)  # fmt: skip


TWO_SIGNS = ("#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#f7f7f7", "#d8daeb", "#b2abd2", "#8073ac",
             "#542788", "#2d004b")  # fmt: skip
"""Colours of a heat map whose values have both signs, from the lowest to the highest: ColorBrewer's PuOr."""


def measured_layers(shown: RunTables) -> list[int]:
    """The layers of a run that measured some before the last, the last first; none of other runs."""
    # layers whose attention alone was measured have neither of these
    of_neurons = pl.col("metric").is_in([quantity.earlier[1] for quantity in QUANTITIES])
    layers = shown.metrics.filter(of_neurons, analysis=LAYERS)["layer"].drop_nulls().unique().sort(descending=True)
    return layers.to_list()


def layer_matrix(shown: RunTables, quantity: Quantity) -> np.ndarray:
    """float64 (layers, steps): the quantity on rare targets by `measured_layers`, NaN where it is undefined."""
    result = np.full((len(measured_layers(shown)), len(shown.steps)), np.nan)
    for row, layer in enumerate(measured_layers(shown)):
        analysis, metric = quantity.final if layer == shown.layer else quantity.earlier
        rows = shown.metrics.filter(analysis=analysis, metric=metric, token_class=RARE, layer=layer)
        by_step = dict(rows.select("step", "value").iter_rows())
        result[row] = [np.nan if by_step.get(step) is None else by_step[step] for step in shown.steps]
    return result


def layer_name(shown: RunTables, layer: int) -> str:
    """Counted from the end: L-1 is the last."""
    assert shown.layer is not None
    return f"L-{shown.layer + 1 - layer}"


def calibration_points(shown: RunTables, step: int, layer: int) -> pl.DataFrame:
    """neuron, first_order and exact influence on rare of the layer's random neurons at a step, nats."""
    signed = shown.run.manifest.config.get("rank_by") == "abs_mean"
    name = "delta" if signed else "mean_abs"
    rows = shown.earlier_neurons
    if "random" not in rows.columns:  # none were measured, or by an earlier version
        return pl.DataFrame(schema={"neuron": pl.Int64, "first_order": pl.Float64, "exact": pl.Float64})
    return rows.filter(pl.col("random"), step=step, layer=layer).select(
        "neuron",
        pl.col(f"first_order_{name}_{RARE}").abs().alias("first_order"),
        pl.col(f"{name}_{RARE}").abs().alias("exact"),
    )


def calibration_said(shown: RunTables, step: int, layer: int) -> str:
    """Spearman's correlation of what ranks the neurons, with its interval, or why there is none."""
    rows = shown.metrics.filter(analysis=LAYERS, metric="ranking_spearman", step=step, layer=layer)
    if not rows.height:
        return "not measured at this step"
    row = rows.row(0, named=True)
    if row["value"] is None:
        return str(row["reason"])
    return f"Spearman {number(row['value'], row['ci_low'], row['ci_high'])}"
