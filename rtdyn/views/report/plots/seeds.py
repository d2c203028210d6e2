"""Runs of several seeds: median and quartiles of the main metrics, and the steps at which each run's effect emerges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rtdyn.judge.seeds import OverSeeds, over_seeds
from rtdyn.undefined import Undefined
from rtdyn.views.report.panels import PANELS, JudgedPanels, PanelLine
from rtdyn.views.report.plots.style import (
    COLOURS,
    head,
    legend,
    log_scale,
    plain,
    step_axis,
    styled,
    symlog,
    title,
    wrapped,
)
from rtdyn.views.report.plots.trajectories import COLUMNS
from rtdyn.views.report.run_tables import RunTables

SeedPanels = Mapping[str, Sequence[tuple[PanelLine, OverSeeds]]]
"""By panel name, each line that all runs have with its values over seeds."""


def seed_panels(judged: Sequence[JudgedPanels]) -> SeedPanels:
    """The lines of PANELS that every run has, over seeds; judged: each run's lines, from `judged_panels`."""
    panels: dict[str, list[tuple[PanelLine, OverSeeds]]] = {}
    for panel in PANELS:
        for line in panel.lines:
            found = [j for lines in judged for j in lines.get(panel.name, []) if j.line == line]
            if len(found) < len(judged):
                continue
            over = over_seeds([j.series for j in found], [j.emerged for j in found])
            if over is not None:
                panels.setdefault(panel.name, []).append((line, over))
    return panels


def seeds_figure(
    runs: Sequence[RunTables], judged: Sequence[JudgedPanels], width: float | None = None
) -> Figure | Undefined:
    """An axis a metric: each run a thin line, the median, the quartiles, and a mark for each run's emergence."""
    over = seed_panels(judged)
    if not over:
        return Undefined("no metric is defined in all of the runs at a step that they share")
    panels = [panel for panel in PANELS if panel.name in over]
    with styled():
        figure, axes = wrapped(len(panels), 2.6, 1.95, width, COLUMNS)
        for ax, panel in zip(axes, panels, strict=True):
            for place, (line, values) in enumerate(over[panel.name]):
                _line(ax, values, COLOURS[line.colour], line.label, place)
            every = np.concatenate([values.values.ravel() for _, values in over[panel.name]])
            if panel.scale == "log" and np.nanmin(every) > 0:
                log_scale(ax, "y")
            elif panel.scale == "symlog":
                symlog(ax, every)
            step_axis(ax, [step for _, values in over[panel.name] for step in values.steps.tolist()])
            title(ax, panel.title)
            ax.set_ylabel(panel.unit)
            ax.legend(loc="best", handlelength=1.4)
        head(figure, f"{len(runs)} runs that differ in seed alone: {plain(runs[0].label)} and others")
        grey = "#555555"
        legend(figure, [
            Line2D([], [], color=grey, lw=0.5, alpha=0.6, label="a run"),
            Line2D([], [], color=grey, lw=0.9, ls=":", label="a run that stands apart"),
            Line2D([], [], color=grey, lw=1.8, label="median"),
            Patch(color=grey, alpha=0.2, label="lower to upper quartile"),
            Line2D([], [], color=grey, ls="", marker="v", ms=4, label="emerged, a mark a run"),
        ])  # fmt: skip
    return figure


def _line(ax: Axes, over: OverSeeds, colour: str, label: str, place: int) -> None:
    for index, values in enumerate(over.values):
        is_apart = index in over.apart
        ax.plot(over.steps, values, color=colour, lw=0.9 if is_apart else 0.5, ls=":" if is_apart else "-", alpha=0.6)
    ax.fill_between(over.steps, over.low, over.high, color=colour, alpha=0.2, lw=0)
    ax.plot(over.steps, over.median, color=colour, lw=1.8, label=label)
    emerged = [step for step in over.emerged if step is not None]
    if emerged:  # a line without points has no extent, and the layout fails on it
        ax.plot(emerged, [0.985 - 0.07 * place] * len(emerged), transform=ax.get_xaxis_transform(), color=colour,
                ls="", marker="v", ms=4, alpha=0.6, clip_on=False)  # fmt: skip


def seed_table(runs: Sequence[RunTables], over: SeedPanels) -> pl.DataFrame:
    """A row a metric: its median and quartiles at the last shared step, emergence steps, runs that stand apart."""
    rows = []
    for panel in PANELS:
        for line, values in over.get(panel.name, ()):
            emerged = sorted(step for step in values.emerged if step is not None)
            rows.append(
                {
                    "metric": panel.title,
                    "unit": panel.unit,
                    "line": line.label,
                    "runs": len(runs),
                    "step": int(values.steps[-1]),
                    "median": float(values.median[-1]),
                    "quartile_low": float(values.low[-1]),
                    "quartile_high": float(values.high[-1]),
                    "emerged_runs": len(emerged),
                    "emergence_steps": " ".join(map(str, emerged)),
                    "apart": "; ".join(runs[i].label for i in values.apart),
                }
            )
    return pl.DataFrame(rows)


def seed_lines(runs: Sequence[RunTables], over: SeedPanels) -> list[str]:
    """Which runs stand apart from the others, and in what."""
    apart: dict[int, list[str]] = {}
    for panel in PANELS:
        for line, values in over.get(panel.name, ()):
            for index in values.apart:
                apart.setdefault(index, []).append(f"{panel.title}, {line.label}")
    return [f"{runs[i].label} stands apart in {'; '.join(names)}" for i, names in sorted(apart.items())]
