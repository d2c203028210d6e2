"""Tables that keep their words whole: a row a thing where the terminal is wide enough, else a block a thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

_BOUNDLESS = 10_000
"""Characters, more than any table takes."""


def print_fitted(title: str, rows: Sequence[Mapping[str, str]], console: Console, last: bool = False) -> None:
    """Prints things with their cells by column; the first names the thing, and cells that are absent are left empty.

    A file gets the table, however wide. last: the last row is of all the others, and stands apart.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=escape(title), title_justify="left")
    for name in columns:
        numbers = all(not row.get(name, "")[:1].isalpha() for row in rows)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for number, row in enumerate(rows):
        if last and number == len(rows) - 1:
            table.add_section()
        table.add_row(*(escape(row.get(name, "")) for name in columns))
    if not console.is_terminal or _needed(table, console) <= console.width:
        print_whole(table, console)
        return
    console.print(title, markup=False, highlight=False)
    for row in rows:
        console.print(_block(row, columns))


def print_whole(table: Table, console: Console) -> None:
    """Prints a table that a file gets with no line broken, however wide; on a terminal its cells wrap."""
    needed = _needed(table, console)
    is_whole = console.is_terminal or needed <= console.width
    (console if is_whole else Console(file=console.file, width=needed, quiet=console.quiet)).print(table)


def _needed(table: Table, console: Console) -> int:
    """Characters of the table's widest line, where none is broken."""
    return Measurement.get(console, console.options.update(max_width=_BOUNDLESS), table).maximum


def _block(row: Mapping[str, str], columns: Sequence[str]) -> Table:
    """One thing: its name above, then a line for each cell."""
    block = Table(
        title=escape(row[columns[0]]), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 2)
    )
    block.add_column(no_wrap=True)
    block.add_column()
    for name in columns[1:]:
        if row.get(name):
            block.add_row(name, escape(row[name]))
    return block
