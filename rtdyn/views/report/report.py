"""`rtdyn report`: every figure of one run or several as PNG and PDF, and the page."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from rtdyn.errors import InputError, UsageError
from rtdyn.files import replace_file
from rtdyn.judge.observations import read_judged
from rtdyn.suites.steps import parse_steps
from rtdyn.undefined import Undefined
from rtdyn.views.report.figures import CURVE_STEPS, figures
from rtdyn.views.report.page import page
from rtdyn.views.report.panels import judged_panels
from rtdyn.views.report.plots.style import save
from rtdyn.views.report.run_tables import RunTables, labels, show

PAGE = "report.html"
COMPARED = Path("report-compare")


def report(paths: Sequence[Path], out: Path | None, at: str | None, open_page: bool, console: Console) -> Path:
    """Writes the figures and the page of the runs at `paths`, and returns the page's file.

    out: the folder, by default `report` in the run, or COMPARED for several. at: steps as for `rtdyn track`, which
    every run must have. Raises InputError if there is no run, no finished step, or no place to write; UsageError for
    steps that are not stored.
    """
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    runs = [read_judged(path) for path in paths]
    shown = [show(run, label) for run, label in zip(runs, labels(runs), strict=True)]
    chosen = [_steps(at, tables, path) for tables, path in zip(shown, paths, strict=True)]
    folder = out if out is not None else paths[0] / "report" if len(paths) == 1 else COMPARED
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another --out") from error
    judged = [judged_panels(tables) if tables.has_trajectories else {} for tables in shown]
    drawn, missing = [], {}
    for name, draw in figures(shown, judged, chosen).items():
        figure = draw()
        if isinstance(figure, Undefined):
            missing[name] = figure.reason
            say(f"{name}: not drawn: {figure.reason}")
        else:
            drawn += save(figure, folder, name)
    file = folder / PAGE
    text = page(shown, judged, missing)
    replace_file(file, lambda aside: aside.write_text(text, encoding="utf-8"))
    say(f"{len(drawn) // 2} figures (PNG, PDF) in {folder}")
    say(f"page: {file} ({len(text.encode()) / 1e6:.1f} MB)")
    if open_page and not webbrowser.open(file.resolve().as_uri()):
        say("no browser could be opened here")
    return file


def _steps(at: str | None, shown: RunTables, path: Path) -> list[int]:
    if at is None:
        return shown.spread(CURVE_STEPS)
    try:
        return list(parse_steps(at, tuple(shown.steps)))
    except UsageError as error:
        stored = ", ".join(map(str, shown.steps))
        raise UsageError(f"--at {at} names a step that {path} does not hold; it holds {stored}") from error
