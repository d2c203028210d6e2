"""How a stored number is written, wherever it is shown."""

from __future__ import annotations

DIGITS = 4
"""Significant digits of a value."""


def number(value: float, low: float | None = None, high: float | None = None, *, at_edge: bool = False) -> str:
    """A value with its 95 % interval, `5.66 (4.98 to 6.34)`; at an edge `≥ 244` or `≤ 5`.

    An edge is the last that could be found: the interval is open on its far side.
    """
    shown = f"{value:.{DIGITS}g}"
    if at_edge:
        return f"{'≥' if high is None else '≤'} {shown}"
    return shown if low is None or high is None else f"{shown} ({low:.3g} to {high:.3g})"


def p_value(p: float) -> str:
    """A p-value to two digits; one near 1 is never shown as 1."""
    return "> 0.99" if p > 0.99 else f"{p:.2g}"
