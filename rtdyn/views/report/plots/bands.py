"""How plateau, power law and ranking move with the band of types that count as rare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rtdyn.judge.bands import BandRow, Estimate, band_rows
from rtdyn.names import RARE
from rtdyn.undefined import Undefined
from rtdyn.views.report.plots.style import COLOURS, OKABE_ITO, head, plain, styled, wrapped
from rtdyn.views.report.run_tables import RunTables

_PANELS = (
    ("plateau", "plateau, share of neurons"),
    ("kappa", "power law, κ"),
    ("excess", "excess of the top, ln units"),
    ("spearman", "ranks as `rare`, Spearman"),
)


def bands_figure(shown: RunTables, width: float | None = None) -> Figure | Undefined:
    """An axis a number against the share of types in the band, with 95 % intervals; or why there is none.

    A triangle is the last value that the fit can find, and points to where the quantity may lie beyond it.
    """
    rows = band_rows(shown.run)
    if not rows:
        return Undefined("one band of rare tokens was measured; --rare sweep measures several")
    with styled():
        figure, axes = wrapped(len(_PANELS), 2.2, 2.2, width)
        for ax, (name, title) in zip(axes, _PANELS, strict=True):
            _panel(ax, rows, name)
            ax.set_title(title)
            ax.set_xlabel("least frequent types in the band")
            ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        head(figure, f"{plain(shown.label)}, {shown.named(shown.last)}: bands of rare tokens")
    return figure


def _panel(ax: Axes, rows: Sequence[BandRow], name: str) -> None:
    for row in rows:
        estimate: Estimate | Undefined = getattr(row, name)
        if isinstance(estimate, Undefined):
            continue
        colour: Any = COLOURS[RARE] if row.token_class == RARE else OKABE_ITO["black"]
        low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
        ax.plot([row.share, row.share], [low, high], color=colour, lw=1)
        marker = ("v" if estimate.low is None else "^") if estimate.at_edge else "o"
        ax.plot(row.share, estimate.value, marker=marker, ms=4, color=colour)
