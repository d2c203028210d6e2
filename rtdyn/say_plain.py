"""A line of plain text on a console."""

from __future__ import annotations

from rich.console import Console


def say_plain(console: Console, text: str) -> None:
    """Prints a line as it is: no markup, no colours of its own, and unbroken."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
