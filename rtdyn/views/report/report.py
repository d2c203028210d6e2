"""`rtdyn report`: the figures of one run or several, and the page."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from rtdyn.errors import InputError, UsageError
from rtdyn.files import replace_file
from rtdyn.judge.designs import compare_designs
from rtdyn.judge.observations import read_judged
from rtdyn.say_plain import say_plain
from rtdyn.suites.steps import parse_steps
from rtdyn.undefined import Undefined
from rtdyn.views.report.figures import CURVE_STEPS, SEEDS, chosen_figures, figures
from rtdyn.views.report.neuron_files import NEURON_TABLE, neuron_files
from rtdyn.views.report.page import page
from rtdyn.views.report.panels import judged_panels
from rtdyn.views.report.plots.seeds import seed_lines, seed_panels, seed_table
from rtdyn.views.report.plots.style import COLUMN, FORMATS, save
from rtdyn.views.report.run_tables import RunTables, labels, show
from rtdyn.views.terminal.designs import design_table, pair_of, verdicts_in_words

PAGE = "report.html"
COMPARED = Path("report-compare")
DESIGNS = "designs"
"""The table of two designs, for machines."""


@dataclass(frozen=True)
class Drawn:
    """Which figures are drawn, and in which form."""

    names: tuple[str, ...] = ()
    """These alone, and no page; none for all and the page."""
    formats: tuple[str, ...] = FORMATS[:2]
    width: str | None = None
    """A name in COLUMN; None for each figure's own width."""


ALL = Drawn()


def report(
    paths: Sequence[Path], out: Path | None, at: str | None, open_page: bool, console: Console, drawn: Drawn = ALL
) -> None:
    """Writes the figures and the page of the runs at `paths`.

    out: the folder, by default `report` in the run, or COMPARED for several. at: steps as for `rtdyn track`, which
    every run must have. Raises InputError if there is no run, no finished step, or no place to write. Raises UsageError
    for steps that are not stored, figures that there are not, and a page to open that is not asked for.
    """
    if drawn.names and open_page:
        raise UsageError("--open opens the page, which --figures leaves out; give one of the two")
    if unknown := [kind for kind in drawn.formats if kind not in FORMATS]:
        raise UsageError(f"figures are not written as {unknown[0]!r}; there are {', '.join(FORMATS)}")
    say = partial(say_plain, console)
    runs = [read_judged(path) for path in paths]
    shown = [show(run, label) for run, label in zip(runs, labels(runs), strict=True)]
    chosen = [_steps(at, tables, path) for tables, path in zip(shown, paths, strict=True)]
    judged = [judged_panels(tables) if tables.has_trajectories else {} for tables in shown]
    width = None if drawn.width is None else COLUMN[drawn.width]
    folder = out if out is not None else paths[0] / "report" if len(paths) == 1 else COMPARED
    known: dict[str, Callable[[], Figure | list[Path] | Undefined]] = {**figures(shown, judged, chosen, width)}
    if len(shown) == 1:
        known[NEURON_TABLE] = partial(neuron_files, shown[0], chosen[0][-1], folder)
    known = chosen_figures(known, drawn.names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another --out") from error
    count, missing = 0, {}
    for name, draw in known.items():
        made = draw()
        if isinstance(made, Undefined):
            missing[name] = made.reason
            say(f"{name}: not drawn: {made.reason}")
            continue
        if isinstance(made, Figure):
            save(made, folder, name, drawn.formats)
            count += 1
        else:
            say(f"{name}: {' and '.join(file.name for file in made)} in {folder}")
        if name == SEEDS:
            over = seed_panels(judged)
            replace_file(folder / f"{SEEDS}.csv", seed_table(shown, over).write_csv)
            for text in seed_lines(shown, over):
                say(text)
    designs = None if drawn.names or (pair := pair_of(runs)) is None else compare_designs(*pair)
    if designs is not None:
        replace_file(folder / f"{DESIGNS}.csv", design_table(designs).write_csv)
        say(verdicts_in_words(designs))
    if count:
        said = ", ".join(kind.upper() for kind in drawn.formats)
        say(f"{count} figure{'' if count == 1 else 's'} ({said}) in {folder}")
    if drawn.names:
        return
    file = folder / PAGE
    text = page(shown, judged, missing, designs)
    replace_file(file, lambda aside: aside.write_text(text, encoding="utf-8"))
    say(f"page: {file} ({len(text.encode()) / 1e6:.1f} MB)")
    if open_page and not webbrowser.open(file.resolve().as_uri()):
        say("no browser could be opened here")


def _steps(at: str | None, shown: RunTables, path: Path) -> list[int]:
    if at is None:
        return shown.spread(CURVE_STEPS)
    try:
        return list(parse_steps(at, tuple(shown.steps)))
    except UsageError as error:
        stored = ", ".join(map(str, shown.steps))
        raise UsageError(f"--at {at} names a step that {path} does not hold; it holds {stored}") from error
