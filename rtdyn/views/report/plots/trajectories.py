"""The emergence panel: every main metric over training, with interval, null band, emergence and change points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rtdyn.intervals import NORMAL_95
from rtdyn.judge.emergence import ALPHA, Emergence
from rtdyn.judge.series import Series
from rtdyn.undefined import Undefined
from rtdyn.views.report.panels import PANELS, THEMES, JudgedLine, JudgedPanels, Panel, theme_of
from rtdyn.views.report.plots.style import (
    COLOURS,
    LINE_STYLES,
    NULL,
    head,
    legend,
    log_scale,
    plain,
    run_colour,
    step_axis,
    styled,
    symlog,
    title,
    wrapped,
)
from rtdyn.views.report.run_tables import RunTables

COLUMNS = 4


def emergence_panel(
    runs: Sequence[RunTables], judged: Sequence[JudgedPanels], theme: str, width: float | None = None
) -> Figure | Undefined:
    """A small axis a metric of a theme, or why there is none; several runs share the axes, a colour each.

    judged: each run's lines by panel, from `judged_panels`. width: inches of the figure.
    """
    panels = [p for p in PANELS if theme_of(p) == theme and any(p.name in lines for lines in judged)]
    if not panels:
        analyses = dict.fromkeys(line.selection.analysis for p in PANELS if theme_of(p) == theme for line in p.lines)
        return Undefined(f"none of its metrics is defined at any step; they are of the analyses {', '.join(analyses)}")
    with styled():
        figure, axes = wrapped(len(panels), 2.6, 1.95, width, COLUMNS)
        for ax, panel in zip(axes, panels, strict=True):
            metric_panel(
                ax, panel, [lines.get(panel.name, []) for lines in judged], [s for run in runs for s in run.steps]
            )
        who = f"{plain(runs[0].label)}: " if len(runs) == 1 else ""
        head(figure, f"{who}{THEMES[theme]} over training", capital=not who)
        drawn = {panel.name for panel in panels}
        legend(figure, _handles(runs, [{k: v for k, v in lines.items() if k in drawn} for lines in judged]))
    return figure


def metric_panel(ax: Axes, panel: Panel, by_run: Sequence[Sequence[JudgedLine]], steps: Sequence[int]) -> None:
    """One metric over `steps` in these axes: the lines of one run, or of several a colour each."""
    single = len(by_run) == 1
    values = np.concatenate([j.series.value for lines in by_run for j in lines])
    drawn = [line for line in panel.lines if any(j.line == line for lines in by_run for j in lines)]
    for index, lines in enumerate(by_run):
        for judged in lines:
            place = drawn.index(judged.line)
            colour = COLOURS[judged.line.colour] if single else run_colour(index)
            draw_line(ax, judged, colour, "-" if single else LINE_STYLES[place], is_alone=single)
            if single:
                _marks(ax, judged, colour, place)
            elif judged.emerged is not None and judged.emerged.step is not None:
                ax.axvline(judged.emerged.step, color=colour, lw=0.7, ls=LINE_STYLES[place])
    if panel.scale == "log" and np.nanmin(values) > 0:
        log_scale(ax, "y")
    elif panel.scale == "symlog":
        symlog(ax, values)
        ax.axhline(0, color="black", lw=0.5)
    if panel.lines[0].effect == "value is p":
        ax.axhline(ALPHA, color="black", lw=0.6, ls="--")
    if panel.lines[0].effect == "above 0":
        ax.axhline(0, color="black", lw=0.5)
    title(ax, panel.title)
    ax.set_ylabel(panel.unit)
    handles = [
        Line2D([], [], color=COLOURS[line.colour], label=line.label)
        if single
        else Line2D([], [], color="black", ls=style, label=line.label)
        for line, style in zip(drawn, LINE_STYLES, strict=False)
    ]
    # where no place is free, names stay legible over lines
    behind = {"frameon": True, "framealpha": 0.8, "facecolor": "white", "edgecolor": "none"}
    ax.legend(handles=handles, loc="best", handlelength=1.4, borderpad=0.1, labelspacing=0.2, **behind)
    step_axis(ax, steps)


def draw_line(ax: Axes, judged: JudgedLine, colour: str, style: object, *, is_alone: bool = True) -> None:
    """A series with its 95 % interval, the band of its null, and the steps that are left out.

    is_alone: whether the axes show one run. Those of several have fainter bands, without the null's mean.
    """
    s = judged.series
    known = np.isfinite(s.value)
    low, high = null_band(s)
    null_colour = colour if _coloured(judged) or not is_alone else NULL
    ax.fill_between(s.steps, low, high, color=null_colour, alpha=0.18 if is_alone else 0.1, lw=0)
    if is_alone:
        ax.plot(s.steps, s.null_mean, color=null_colour, lw=0.8, ls="--")
    ends = np.isfinite(s.ci_low) & np.isfinite(s.ci_high)
    ax.vlines(s.steps[ends], s.ci_low[ends], s.ci_high[ends], color=colour, lw=0.7, alpha=0.7 if is_alone else 0.4)
    ax.plot(s.steps[known], s.value[known], color=colour, ls=style, marker="o", ms=1.8 if is_alone else 0)
    if judged.left_out is not None:
        flawed = judged.left_out
        ax.plot(flawed.steps, flawed.value, color=colour, ls="", marker="x", ms=4)


def _coloured(judged: JudgedLine) -> bool:
    """Whether the null takes its line's colour: where each line of a panel has a null of its own."""
    return judged.line.effect == "null"


def has_null(s: Series) -> bool:
    """Whether a null is stored for any of the steps."""
    return bool(np.isfinite(s.null_mean).any())


def null_band(s: Series) -> tuple[np.ndarray, np.ndarray]:
    """Null mean ± 1.96 null standard deviations (k,), NaN where the store has none."""
    return s.null_mean - NORMAL_95 * s.null_sd, s.null_mean + NORMAL_95 * s.null_sd


def _marks(ax: Axes, judged: JudgedLine, colour: str, place: int) -> None:
    """Emergence at the top of the axis, change points at its bottom."""
    emerged = judged.emerged
    if emerged is not None and emerged.step is not None:
        ax.axvspan(_after(emerged), emerged.step, color=colour, alpha=0.12, lw=0)
        ax.plot([emerged.step], [0.985 - 0.07 * place], transform=ax.get_xaxis_transform(), marker="v", ms=5,
                color=colour, clip_on=False)  # fmt: skip
    if not isinstance(judged.changes, Undefined):
        for step in judged.changes.steps:
            ax.plot([step], [0.045 + 0.06 * place], transform=ax.get_xaxis_transform(), marker="D", ms=2.6, mew=0,
                    color=colour, clip_on=False)  # fmt: skip


def _after(emerged: Emergence) -> int:
    assert emerged.step is not None
    return emerged.step if emerged.after is None else emerged.after


def _handles(runs: Sequence[RunTables], judged: Sequence[JudgedPanels]) -> list[Line2D | Patch]:
    """What is drawn in any of the axes, and nothing else."""
    every = [line for lines in judged for panel in lines.values() for line in panel]
    emerged = any(j.emerged is not None and j.emerged.step is not None for j in every)
    left_out = [Line2D([], [], color="black", ls="", marker="x", ms=4, label="step left out of trajectories")]
    crosses = left_out if any(run.left_out for run in runs) else []
    interval = Line2D([], [], color="black", marker="|", ms=7, lw=0, label="95 % interval")
    nulls = sorted({j.line.selection.null for j in every if j.line.selection.null and has_null(j.series)})
    if len(runs) > 1:
        band = [Patch(color=NULL, alpha=0.35, label=f"each run's null ({', '.join(nulls)}): mean ± 1.96 sd")]
        vertical = [Line2D([], [], color="black", lw=0.7, label="vertical: emergence")] if emerged else []
        return [
            *(Line2D([], [], color=run_colour(i), label=plain(run.label)) for i, run in enumerate(runs)),
            interval,
            *(band if nulls else []),
            *vertical,
            *crosses,
        ]
    handles: list[Line2D | Patch] = [interval]
    if nulls:
        handles.append(Patch(color=NULL, alpha=0.35, label=f"null ({', '.join(nulls)}): mean (dashed) ± 1.96 sd"))
    if emerged:
        handles.append(Line2D([], [], color="black", ls="", marker="v", ms=5, label="emerged, within the shaded steps"))
    if any(not isinstance(j.changes, Undefined) and j.changes.steps for j in every):
        handles.append(
            Line2D([], [], color="black", ls="", marker="D", ms=2.6, label="change point (foot of the axis)")
        )
    return [*handles, *crosses]
