"""What a shell completes: suites, analyses, runs."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from rtdyn.names import ANALYSES


def complete_models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The suites that begin so, and folders."""
    from rtdyn.suites.find import load_suites

    names = [name for name in load_suites() if name.startswith(incomplete)]
    return [*map(CompletionItem, names), CompletionItem(incomplete, type="dir")]


def complete_analyses(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The analyses that the last word begins, behind those that stand before it."""
    before, comma, word = incomplete.rpartition(",")
    given = before.split(",")
    names = [name for name in (*ANALYSES, *(() if comma else ("all",))) if name.startswith(word) and name not in given]
    return [CompletionItem(before + comma + name) for name in names]


def complete_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The run directories that begin so, of `runs/` where nothing is typed yet, and folders."""
    above = (
        Path(incomplete or "runs/").parent if not (incomplete or "runs/").endswith("/") else Path(incomplete or "runs")
    )
    runs = sorted(file.parent for file in above.glob("*/manifest.json")) if above.is_dir() else []
    found = [str(run) for run in runs if str(run).startswith(incomplete)]
    return [*map(CompletionItem, found), CompletionItem(incomplete, type="dir")]


runs_argument = click.argument(
    "runs",
    type=click.Path(path_type=Path),
    nargs=-1,
    required=True,
    metavar="RUN [RUN ...]",
    shell_complete=complete_runs,
)
"""Of commands over one run or several."""
