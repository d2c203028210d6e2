"""Rare beside common over training, with their intervals, as lines of one chart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rtdyn.names import COMMON, RARE
from rtdyn.views.report.panels import PANELS

LOG2_STEP = "log2_step"
"""log₂(step + 1), which gives step 0 a place on a logarithmic axis."""


@dataclass(frozen=True)
class Overlay:
    """One chart of several lines over `LOG2_STEP`."""

    title: str
    lines: dict[str, tuple[list[float], list[float]]]
    """By name, x and y: a class's values, and the ends of its 95 % intervals."""


def log2_step(step: int) -> float:
    """The step's place on a logarithmic axis."""
    return float(np.log2(step + 1))


def overlays(metrics: pl.DataFrame) -> dict[str, Overlay]:
    """A chart for each metric of the report that is measured on both classes, by `overlay/` and its panel's name.

    metrics: rows of all sound steps. A line holds the steps where its number is defined.
    """
    charts = {}
    for panel in PANELS:
        by_class = [line.selection for line in panel.lines if line.label in (RARE, COMMON)]
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for s in by_class if len(by_class) == len((RARE, COMMON)) else ():
            rows = metrics.filter(analysis=s.analysis, metric=s.metric, token_class=s.token_class).sort("step")
            for column, name in (("value", ""), ("ci_low", ", 95 % from"), ("ci_high", ", 95 % to")):
                known = rows.drop_nulls(column)
                if known.height:
                    x = [log2_step(step) for step in known["step"]]
                    lines[f"{s.token_class}{name}"] = x, known[column].to_list()
        if {RARE, COMMON} <= set(lines):
            charts[f"overlay/{panel.name}"] = Overlay(f"{panel.title}{panel.unit and f' ({panel.unit})'}", lines)
    return charts
