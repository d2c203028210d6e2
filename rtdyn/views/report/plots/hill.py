"""Hill's α of input weights over the length of the tail: is there an exponent at all?"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rtdyn.store.schema import HILL, SELECTED_HILL
from rtdyn.undefined import Undefined
from rtdyn.views.report.plots.style import (
    COLOURS,
    LINE_STYLES,
    NULL,
    OKABE_ITO,
    head,
    legend,
    plain,
    run_colour,
    styled,
    wrapped,
)
from rtdyn.views.report.run_tables import RunTables

LAYER = "the whole layer"
_HALF_STYLES = ("-", LINE_STYLES[1])


def hill_over_k(runs: Sequence[RunTables], at: Sequence[int], width: float | None = None) -> Figure | Undefined:
    """α by the length of the tail, an axis a group, or the layer, and input matrix; or why there is none.

    One run has the 95 % intervals of α and the band of selected sets; several share the axes, a colour each.
    """
    lines_of = [
        run.curves.filter(pl.col("step") == step, pl.col("kind").str.starts_with(HILL))
        .with_columns(pl.col("group").fill_null(LAYER), pl.col("half").fill_null(0))
        for run, step in zip(runs, at, strict=True)
    ]  # fmt: skip
    panels = sorted({pair for lines in lines_of for pair in lines.select("group", "kind").iter_rows()})
    if not panels:
        return Undefined("no α over the length of the tail is stored for the step: the analysis heavytail made none")
    single = len(runs) == 1
    with styled():
        figure, axes = wrapped(len(panels), 2.9 if len(panels) > 1 else 4.2, 2.7, width)
        for ax, (group, kind) in zip(axes, panels, strict=True):
            for index, lines in enumerate(lines_of):
                colour = COLOURS.get(group, OKABE_ITO["black"]) if single else run_colour(index)
                _alpha(ax, lines.filter(group=group, kind=kind), colour, bands=single)
            if single:
                _selected_band(
                    ax, runs[0].curves.filter(step=at[0], group=group, kind=kind.replace(HILL, SELECTED_HILL))
                )
            matrix = kind.removeprefix(HILL).removeprefix("_")
            ax.set(xlabel="eigenvalues in the tail", title=group + (f", {matrix}" if matrix else ""))
            ax.axhline(2, color="black", lw=0.5, ls=":")
        axes[0].set_ylabel("Hill's α")
        names = [f"{plain(run.label)}, {run.named(step)}" for run, step in zip(runs, at, strict=True)]
        head(figure, f"{names[0]}: tails of the input weights" if single else "Tails of the input weights")
        legend(figure, _handles(lines_of, names))
    return figure


def _alpha(ax: Axes, rows: pl.DataFrame, colour: str, *, bands: bool) -> None:
    for half in rows["half"].unique().sort():
        line = rows.filter(half=half).sort("x").drop_nulls("value")
        if bands:
            ax.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.15, lw=0)
        ax.plot(line["x"], line["value"], color=colour, ls=_HALF_STYLES[half], lw=1.2)


def _selected_band(ax: Axes, rows: pl.DataFrame) -> None:
    for half in rows["half"].unique().sort():
        band = rows.filter(half=half).sort("x").drop_nulls(["low", "high"])
        ax.fill_between(band["x"], band["low"], band["high"], color=NULL, alpha=0.25, lw=0)


def _handles(lines_of: Sequence[pl.DataFrame], names: Sequence[str]) -> list[Line2D | Patch]:
    """What is drawn, and nothing else."""
    handles: list[Line2D | Patch] = [Line2D([], [], color="black", lw=0.5, ls=":", label="α = 2")]
    if len(names) > 1:
        return [*(Line2D([], [], color=run_colour(i), label=name) for i, name in enumerate(names)), *handles]
    handles.append(Patch(color=OKABE_ITO["black"], alpha=0.15, label="95 % interval, if the tail is Pareto's"))
    if lines_of[0].filter(pl.col("group") != LAYER).height:
        handles += [Line2D([], [], color="black", ls=_HALF_STYLES[h], label=f"chosen on half {h + 1}") for h in (0, 1)]
        handles.append(Patch(color=NULL, alpha=0.25, label="95 % of sets selected alike for common tokens"))
    return handles
