"""The closing table of many suites: the main numbers of each one's last step in a row, and which failed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from rtdyn.counted import counted
from rtdyn.many import Outcome
from rtdyn.parquet import read_parquet
from rtdyn.say_plain import say_plain
from rtdyn.store.run import done_steps, table_file
from rtdyn.views.terminal.fitted import print_fitted
from rtdyn.views.terminal.summary import CAUTION, main_cells

_ABSENT = "—"


def print_side_by_side(outcomes: Sequence[Outcome], console: Console) -> None:
    """A row a suite with its last step's numbers, the reasons of those that failed, and where the runs are."""
    cells: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        if outcome.run is None or outcome.failure is not None:
            cells[outcome.label] = {"steps": "failed"}
            continue
        steps = list(done_steps(outcome.run))
        metrics = read_parquet(table_file(outcome.run, "metrics", steps[-1]))
        stored = {"steps": str(len(steps)), "last step": str(steps[-1])}
        cells[outcome.label] = {**stored, **main_cells(metrics)}
    failed = sum(outcome.failure is not None for outcome in outcomes)
    title = counted(len(outcomes), "suite") + (f", {failed} failed" if failed else "")
    columns = list(dict.fromkeys(name for row in cells.values() for name in row))
    rows = [{"suite": label, **{name: row.get(name, _ABSENT) for name in columns}} for label, row in cells.items()]
    print_fitted(title, rows, console)
    runs = [outcome.run for outcome in outcomes if outcome.run is not None]
    said = [f"{outcome.label} failed: {outcome.failure}" for outcome in outcomes if outcome.failure]
    if runs:
        said.append("Everything is in " + ", ".join(str(run.path) for run in runs))
    if "rare shape" in columns:
        said.append(CAUTION)
    for text in said:
        say_plain(console, text)
