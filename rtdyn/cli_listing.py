"""Commands that say what there is: suites, their steps, and runs on this disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtdyn.cli_boundary import refuse_clearly
from rtdyn.cli_complete import complete_runs
from rtdyn.cli_suites import model_option, steps_option, suites_option
from rtdyn.counted import counted

if TYPE_CHECKING:
    from rtdyn.suites.forms import RevisionPattern
    from rtdyn.suites.suite import SuiteSpec


_NAME = 28
"""Characters that a listed name is given; a longer one pushes what follows it."""


@click.command()
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print a list for machines.")
@suites_option
@refuse_clearly
def models(pattern: str, as_json: bool, suites: Path | None) -> None:
    """List the suites that are known by name, or those that PATTERN matches, as 'pythia-*-seed*', with their sizes."""
    from rtdyn.suites.find import load_suites, registered

    known = registered(pattern, load_suites(suites))
    records = [_model_record(suite) for suite in known]
    if as_json:
        click.echo(json.dumps(records))
        return
    cells = []
    for suite, record in zip(known, records, strict=True):
        owner, _, name = (suite.repo or "").rpartition("/")
        place = owner if name == suite.name else suite.repo or suite.note.partition(";")[0]
        flawed = f"{record['known_defects']} with defects" if record["known_defects"] else ""
        cells.append(
            (
                suite.name,
                _size(record["parameters"]),
                "to be found" if suite.pattern else counted(len(suite.steps), "step"),
                place,
                flawed,
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for *aligned, place, flawed in cells:
        columns = (f"{cell:{min(width, _NAME)}}" for cell, width in zip(aligned, widths[:3], strict=True))
        click.echo("  ".join((*columns, ", ".join(filter(None, (place, flawed))))))


def _model_record(suite: SuiteSpec) -> dict[str, Any]:
    """A suite as JSON holds it; parameters are null where the suites file does not give its shape."""
    return {
        "model": suite.name,
        "location": suite.location,
        "steps": None if suite.pattern else len(suite.steps),
        "family": suite.family,
        "parameters": dict(suite.shape).get("parameters"),
        "tokens_per_step": suite.tokens_per_step,
        "known_defects": len(suite.flawed),
    }


def _size(parameters: int | None) -> str:
    """A number of parameters as models are named: `162M`, `1.4B`."""
    if parameters is None:
        return ""
    return f"{parameters / 1e6:.0f}M" if parameters < 1e9 else f"{parameters / 1e9:.1f}B"


@click.command()
@model_option
@steps_option
@click.option("--json", "as_json", is_flag=True, help="Print a list for machines.")
@suites_option
@refuse_clearly
def steps(model: str, pattern: RevisionPattern, steps: str, as_json: bool, suites: Path | None) -> None:
    """List a suite's steps, its tokens seen, and what is known to be wrong with them."""
    from rtdyn.hub.suite_on_hub import suite_on_hub
    from rtdyn.suites.find import find_suite, load_suites
    from rtdyn.suites.steps import parse_steps
    from rtdyn.views.terminal.steps import steps_lines, steps_records

    suite = find_suite(model, load_suites(suites), suite_on_hub, pattern)
    chosen = parse_steps(steps, suite.steps, unsound=suite.unsound)
    click.echo(json.dumps(steps_records(suite, chosen)) if as_json else "\n".join(steps_lines(suite, chosen)))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print a list for machines.")
@refuse_clearly
def runs(folder: Path, as_json: bool) -> None:
    """List the run directories in FOLDER, by default `runs`: model, steps, state, settings."""
    from rich.console import Console

    from rtdyn.judge.overview import Overview, runs_in
    from rtdyn.views.terminal.runs import print_runs, run_record

    found = list(runs_in(folder))
    if as_json:
        click.echo(json.dumps([run_record(run) if isinstance(run, Overview) else {"error": str(run)} for run in found]))
    else:
        print_runs(found, folder, Console())


@click.command()
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_runs)
@click.option("--json", "as_json", is_flag=True, help="Print an object for machines.")
@refuse_clearly
def show(run: Path, as_json: bool) -> None:
    """Say what a run holds: what was measured and how, which steps are stored, and the last one's main numbers."""
    from rich.console import Console

    from rtdyn.judge.overview import overview
    from rtdyn.views.terminal.runs import print_run, run_record

    seen = overview(run)
    if as_json:
        click.echo(json.dumps(run_record(seen)))
    else:
        print_run(seen, Console())


LISTINGS = (models, steps, runs, show)
