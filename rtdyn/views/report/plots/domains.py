"""How the rank–influence curve, its numbers and the ranking of the neurons move with the text that is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rtdyn.judge.bands import Estimate
from rtdyn.judge.domains import DomainRow, domain_rows
from rtdyn.names import RARE
from rtdyn.parquet import read_parquet
from rtdyn.store.run import table_file
from rtdyn.undefined import Undefined
from rtdyn.views.report.plots.style import NotebookFigure, head, legend, plain, run_colour, styled, title
from rtdyn.views.report.run_tables import RunTables
from rtdyn.views.terminal.domains import MAIN_TEXT

_PANELS = (
    ("plateau", "plateau, share of neurons"),
    ("kappa", "power law, κ"),
    ("excess", "excess of the top, ln units"),
    ("spearman", "ranks as in the main text, Spearman"),
)
_COLUMNS = 3


def domains_figure(shown: RunTables, width: float | None = None) -> Figure | Undefined:
    """Curves on `rare` by domain, and a panel a number with a place for each domain and band, with 95 % intervals.

    A triangle is the last value that the fit can find, and points to where the quantity may lie beyond it. A hollow
    square is Spearman's correlation between halves of the domain's own text: what noise alone leaves of it. width:
    inches of the figure. Of a run without domains, why there is none.
    """
    rows = domain_rows(shown.run)
    if not rows:
        return Undefined("no domains were measured; --domains and --corpus NAME=ADDRESS measure them")
    names = list(dict.fromkeys(row.domain for row in rows))
    bands = [row.token_class for row in rows if row.domain is None]
    place = {name: len(names) - 1 - i for i, name in enumerate(names)}
    with styled():
        total = 2.7 * _COLUMNS if width is None else width
        columns = _COLUMNS if total >= 1.8 * _COLUMNS else 1
        each = max(2.4, 0.9 + 0.16 * len(names))
        lines = -(-(len(_PANELS) + 2) // columns)
        heights = [each] * lines
        if columns == 1:
            heights[1] = 0.2 + 0.16 * len(names)  # of the curves' names alone
        figure = NotebookFigure(figsize=(total, sum(heights)), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, height_ratios=heights).flat
        _curves(axes[0], shown, names)
        axes[1].legend(*axes[0].get_legend_handles_labels(), loc="upper left")
        axes[1].set_axis_off()
        for ax, (number, said) in zip(axes[2:], _PANELS, strict=True):
            _numbers(ax, rows, number, place, bands)
            title(ax, said)
            ax.set_yticks(list(place.values()), labels=[_name(name) for name in place])
        _numbers(axes[-1], rows, "between_halves", place, bands, own="s")
        named = [Line2D([], [], ls="", marker="o", color=run_colour(i), label=b) for i, b in enumerate(bands)]
        own = Line2D(
            [], [], ls="", marker="s", mfc="white", color="black", label="between halves of the domain's own text"
        )
        legend(figure, [*(named if len(bands) > 1 else ()), own])
        head(figure, f"{plain(shown.label)}, {shown.named(shown.last)}: domains beside the main text")
    return figure


def _name(domain: str | None) -> str:
    return MAIN_TEXT if domain is None else plain(domain)


def _curves(ax: Axes, shown: RunTables, names: Sequence[str | None]) -> None:
    """Ranked influence on `rare`; the main text's curve is black and on top."""
    stored = read_parquet(table_file(shown.run, "domain_neurons", shown.last))
    colours = mpl.colormaps["viridis"](np.linspace(0.05, 0.95, max(1, len(names) - 1)))
    lines = [(stored.filter(domain=name), name, {"color": c}) for name, c in zip(names[1:], colours, strict=False)]
    lines.append((shown.neurons.filter(step=shown.last), None, {"color": "black", "lw": 1.4}))
    for neurons, name, style in lines:
        ranked = neurons.select(shown.influence(RARE)).to_series().sort(descending=True)
        ax.plot(np.arange(1, len(ranked) + 1), ranked.to_numpy(), **{"lw": 0.9, **style}, label=_name(name))
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="influence on rare, nats", title="curves by domain")


def _numbers(
    ax: Axes,
    rows: Sequence[DomainRow],
    number: str,
    place: dict[str | None, int],
    bands: Sequence[str],
    own: str | None = None,
) -> None:
    """One number of every domain and band, bands a little apart. own: the hollow marker of a reference."""
    step = 0.7 / max(1, len(bands))
    for row in rows:
        estimate: Estimate | Undefined | None = getattr(row, number)
        if estimate is None or isinstance(estimate, Undefined):
            continue
        band = bands.index(row.token_class)
        colour: Any = run_colour(band) if len(bands) > 1 else "black"
        y = place[row.domain] + step * ((len(bands) - 1) / 2 - band)
        low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
        ax.plot([low, high], [y, y], color=colour, lw=0.9, ls="-" if own is None else ":")
        marker = own or (("<" if estimate.low is None else ">") if estimate.at_edge else "o")
        ax.plot(estimate.value, y, marker=marker, ms=3, color=colour, mfc="white" if own else colour)
    ax.set_ylim(-0.6, len(place) - 0.4)
