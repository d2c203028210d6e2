"""Which lines a saved workspace draws: the report's panels by the names that their numbers have in W&B."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rtdyn.store.metric_names import metric_name
from rtdyn.views.report.panels import PANELS, THEMES, PanelLine, theme_of
from rtdyn.views.wandb.rows import BAND


@dataclass(frozen=True)
class ChartLine:
    """One number over training."""

    name: str
    colour: str
    """By meaning, as a panel's line has it."""
    interval: tuple[str, ...]
    """Names of the ends of its 95 % interval; empty where it has none."""
    null: tuple[str, ...]
    """Names of the ends of its null's 95 % band."""


@dataclass(frozen=True)
class Chart:
    """A panel of the report as a line plot."""

    title: str
    is_log: bool
    lines: tuple[ChartLine, ...]


def charts(names: Collection[str]) -> dict[str, list[Chart]]:
    """By theme, in the report's order, the panels that have a line.

    names: keys of the rows that W&B has; a line, interval or band that is not among them is left out.
    """
    by_theme: dict[str, list[Chart]] = {theme: [] for theme in THEMES}
    for panel in PANELS:
        lines = tuple(line for own in panel.lines if (line := _line(own, names)) is not None)
        if lines:
            by_theme[theme_of(panel)].append(Chart(panel.full_title, panel.scale == "log", lines))
    return {theme: drawn for theme, drawn in by_theme.items() if drawn}


def _line(line: PanelLine, names: Collection[str]) -> ChartLine | None:
    chosen = line.selection
    # counted from a final layer 0; a metric that has no rows by class is stored under no class
    layer = None if line.layer_from_end is None else line.layer_from_end + 1
    row = {"analysis": chosen.analysis, "metric": chosen.metric, "group": chosen.group, "layer": layer, "head": None}
    candidates = (metric_name({**row, "token_class": of}, 0) for of in (chosen.token_class, None))
    name = next((name for name in candidates if name in names), None)
    if name is None:
        return None
    interval = (f"{BAND}/{name}/ci_low", f"{BAND}/{name}/ci_high")
    null = tuple(f"{BAND}/{name}/{chosen.null}/{end}" for end in ("low", "high")) if line.effect == "null" else ()
    return ChartLine(name, line.colour, *(tuple(n for n in ends if n in names) for ends in (interval, null)))
