"""Several bands of rare tokens side by side, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from rtdyn.judge.bands import BAND_CLAIMS, BandRow, Estimate
from rtdyn.say_plain import say_plain
from rtdyn.undefined import Undefined
from rtdyn.views.number import number
from rtdyn.views.terminal.fitted import print_fitted

BAND_HEADERS = (
    "band", "types", "positions", "plateau, share of neurons", "κ", "excess", "shape p", "ranks as `rare`: Spearman",
    *BAND_CLAIMS,
)  # fmt: skip
BAND_NOTE = (
    "Positions are the measured ones, whose class is that of their target, or of their query with --class-by query. "
    "Bands share types and positions, so that they are no independent samples. The plateau is the fitted one, be it "
    "raised or not; the interval of Spearman's correlation takes the neurons for the sample."
)


def band_cells(row: BandRow) -> tuple[str, ...]:
    """The row as it is shown, by BAND_HEADERS."""
    verdicts = ["—"] * len(BAND_CLAIMS) if isinstance(row.verdicts, Undefined) else [*row.verdicts.values()]
    return (
        f"{row.token_class} ({row.band})",
        f"{row.types:,}",
        f"{row.targets:,}",
        *map(_shown, (row.plateau, row.kappa, row.excess)),
        "undefined" if row.shape_p is None else f"{row.shape_p:.2g}",
        _shown(row.spearman),
        *verdicts,
    )


def print_bands(rows: Sequence[BandRow], console: Console) -> None:
    """A row a band; nothing where there are none."""
    if not rows:
        return
    cells = [dict(zip(BAND_HEADERS, band_cells(row), strict=True)) for row in rows]
    print_fitted("Bands of rare tokens, intervals 95 %", cells, console)
    why = next((row.verdicts.reason for row in rows if isinstance(row.verdicts, Undefined)), "")
    for text in (BAND_NOTE, f"No verdicts: {why}." if why else ""):
        if text:
            say_plain(console, text)


def _shown(estimate: Estimate | Undefined) -> str:
    if isinstance(estimate, Undefined):
        return f"undefined ({estimate.reason})"
    return number(estimate.value, estimate.low, estimate.high, at_edge=estimate.at_edge)
