"""Models of several sizes: each main metric against the number of parameters, after equally many tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rtdyn.judge.sizes import equal_tokens, named_parameters, value_at
from rtdyn.undefined import Undefined
from rtdyn.views.report.panels import PANELS, JudgedPanels, Panel
from rtdyn.views.report.plots.style import COLOURS, head, legend, log_scale, styled, symlog, title, wrapped
from rtdyn.views.report.plots.trajectories import COLUMNS
from rtdyn.views.report.run_tables import RunTables


def sizes_figure(
    runs: Sequence[RunTables], judged: Sequence[JudgedPanels], width: float | None = None
) -> Figure | Undefined:
    """An axis a metric, its lines over parameters as the models' names say them, with 95 % intervals; or why none.

    Each line is taken at the largest number of tokens at which all runs have it.
    """
    lines_of = {panel: drawn for panel in PANELS if (drawn := size_lines(panel, runs, judged))}
    if not lines_of:
        return Undefined("no metric is defined in all of the runs after equally many tokens")
    tokens = sorted({count for drawn in lines_of.values() for _, _, count, _ in drawn})
    with styled():
        figure, axes = wrapped(len(lines_of), 2.6, 1.95, width, COLUMNS)
        for ax, (panel, drawn) in zip(axes, lines_of.items(), strict=True):
            _metric(ax, panel, drawn, sorted(sizes_of(runs)))
        seen = f"{tokens[-1]:.3g}" if len(tokens) == 1 else f"{tokens[0]:.3g} to {tokens[-1]:.3g}, as far as all go,"
        head(figure, f"{len(runs)} sizes after {seen} tokens")
        legend(figure, [Line2D([], [], color="black", marker="|", ms=7, lw=0, label="95 % interval")])
    return figure


Points = list[tuple[float, float, float]]
"""Value and the ends of its interval, by run in order of size."""


def sizes_of(runs: Sequence[RunTables]) -> list[float]:
    """The parameters that the models' names say they have."""
    sizes = [named_parameters(run.run.manifest.suite) for run in runs]
    return [size for size in sizes if size is not None]


def size_lines(
    panel: Panel, runs: Sequence[RunTables], judged: Sequence[JudgedPanels]
) -> list[tuple[str, str, float, Points]]:
    """Label, colour, tokens and points of each of the panel's lines that all runs have, by size."""
    order = np.argsort(sizes_of(runs))
    drawn = []
    for line in panel.lines:
        measured = [j.series for lines in judged for j in lines.get(panel.name, []) if j.line == line]
        tokens = equal_tokens(measured) if len(measured) == len(runs) else None
        if tokens is not None:
            points = [value_at(measured[i], tokens) for i in order]
            drawn.append((line.label, COLOURS[line.colour], tokens, points))
    return drawn


def _metric(ax: Axes, panel: Panel, drawn: Sequence[tuple[str, str, float, Points]], sizes: Sequence[float]) -> None:
    every = np.array([value for _, _, _, points in drawn for value, _, _ in points])
    for label, colour, _, points in drawn:
        values, low, high = np.array(points).T
        known = np.isfinite(low)
        ax.vlines(np.array(sizes)[known], low[known], high[known], color=colour, lw=0.8, alpha=0.7)
        ax.plot(sizes, values, color=colour, marker="o", ms=3, label=label)
    log_scale(ax, "x")
    ax.set_xlabel("parameters")
    if panel.scale == "log" and every.min() > 0:
        log_scale(ax, "y")
    elif panel.scale == "symlog":
        symlog(ax, every)
    title(ax, panel.title)
    ax.set_ylabel(panel.unit)
    ax.legend(loc="best", handlelength=1.4)
