"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtdyn import __version__
from rtdyn.cli_options import (
    FiniteRange,
    analysis_options,
    check_executor,
    cluster_options,
    preset_line,
)
from rtdyn.cli_suites import model_option, models_option, steps_option, suites_option

if TYPE_CHECKING:
    from rtdyn.suites.forms import RevisionPattern

FINDING, INTERRUPTED = 1, 130


class _Boundary(click.Group):
    """The command as the world around it allows: a terminal that is not UTF-8, a notebook's settings, a closed pipe."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # None where it is closed
                stream.reconfigure(errors="backslashreplace")
        os.environ["MPLBACKEND"] = "Agg"  # commands draw into files; a notebook's own backend may not be installed here
        return super().main(*args, **kwargs)


def _refuse_clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command on a known error with its sentence and exit code, and on Ctrl-C with 130."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        from rtdyn.errors import RtdynError

        try:
            command(*args, **kwargs)
        except RtdynError as error:
            click.echo(f"rtdyn: {error}", err=True)
            sys.exit(error.exit_code)
        except Exception as error:
            from rtdyn.blame import import_fault, machine_fault

            fault = machine_fault(error) or import_fault(error)
            if fault is None:
                raise
            click.echo(f"rtdyn: {fault}", err=True)
            sys.exit(RtdynError.exit_code)
        except KeyboardInterrupt:
            click.echo("rtdyn: interrupted; the same command goes on where it stopped", err=True)
            sys.exit(INTERRUPTED)

    return guarded


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.group(cls=_Boundary, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Follow how a language model's final layer specialises for rare tokens, checkpoint by checkpoint."""


@main.command()
@models_option
@analysis_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run directory, of several suites the folder of theirs.  [default: runs/<model>-<configuration>]",
)
@click.option(
    "--wandb",
    type=click.Choice(["online", "offline", "disabled"]),
    help="[default: online if there is a key, else offline]",
)
@cluster_options
@suites_option
@_refuse_clearly
def track(
    models: tuple[str, ...],
    pattern: RevisionPattern,
    steps: str,
    suites: Path | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Analyse the checkpoints of a suite, or of several, into a run directory each; the same command resumes."""
    check_executor(options["executor"])
    from rich.console import Console

    from rtdyn.cli_jobs import jobs_of

    asked = {**options, "command": shlex.join(["rtdyn", *sys.argv[1:]])}
    jobs, several = jobs_of(models, pattern, steps, suites, asked, _say)
    from rtdyn.many import raise_failures, track_many
    from rtdyn.track import track as run_track
    from rtdyn.views.terminal.side_by_side import print_side_by_side

    console = Console()
    if line := preset_line():
        click.echo(line)
    if not several:
        run_track(replace(jobs[0], out=out), console)
        return
    outcomes = track_many(jobs, run_track, out, console)
    print_side_by_side(outcomes, console)
    raise_failures(outcomes)


@main.command()
@models_option
@analysis_options
@click.option(
    "--link-mbit",
    type=FiniteRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Download rate assumed, in Mbit/s.",
)
@click.option(
    "--gpu-tflops",
    type=FiniteRange(min=0, min_open=True),
    nargs=2,
    metavar="F32 F64",
    help="Add the hours with one GPU that sustains so many TFLOP/s in float32 and in float64 products.",
)
@click.option(
    "--calibration/--no-calibration", default=True, help="Time this machine for some seconds, or leave hours out."
)
@click.option("--json", "as_json", is_flag=True, help="Print an object for machines.")
@suites_option
@_refuse_clearly
def plan(
    models: tuple[str, ...],
    pattern: RevisionPattern,
    steps: str,
    suites: Path | None,
    link_mbit: float,
    gpu_tflops: tuple[float, float] | None,
    calibration: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what `rtdyn track` with the same options would cost: downloads, operations, memory, disk, hours."""
    from rich.console import Console

    from rtdyn.cli_jobs import jobs_of

    jobs, _ = jobs_of(models, pattern, steps, suites, options, _say)
    from rtdyn.capture.free_memory import available_bytes
    from rtdyn.cost.machine import seconds_on
    from rtdyn.cost.plan import Assumptions, HubAsker, plan_suite
    from rtdyn.sweep.sweep import device_here
    from rtdyn.views.terminal.cost import plan_record, print_plan

    device = device_here(options["device"])
    assumptions = Assumptions(link_mbit, gpu_tflops or None, available_bytes(device))
    if line := preset_line():
        _say(line)
    hub, seconds_of = HubAsker(_say), seconds_on(device) if calibration else None
    plans = [plan_suite(job, assumptions, hub, seconds_of, _say) for job in jobs]
    if as_json:
        click.echo(json.dumps(plan_record(plans, assumptions)))
    else:
        print_plan(plans, assumptions, Console())


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="A list of objects instead of a table.")
@_refuse_clearly
def claims(run: Path, as_json: bool) -> None:
    """The scorecard: what a run's trajectories say of each published claim."""
    from rich.console import Console

    from rtdyn.views.terminal.scorecard import claims as judge

    judge(run, as_json, Console())


@main.command()
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print an object for machines.")
@click.option("--strict", is_flag=True, help="Exit 1 if any step is not sound.")
@suites_option
@_refuse_clearly
def audit(model: str, pattern: RevisionPattern, as_json: bool, strict: bool, suites: Path | None) -> None:
    """Say which steps of a suite are missing, repeated or suspect, from metadata, before any download."""
    from rich.console import Console

    from rtdyn.audit.survey import audit_suite
    from rtdyn.hub.suite_on_hub import suite_on_hub
    from rtdyn.suites.find import find_suite, load_suites
    from rtdyn.views.terminal.audit import audit_record, print_audit

    audited = audit_suite(find_suite(model, load_suites(suites), suite_on_hub, pattern))
    if as_json:
        click.echo(json.dumps(audit_record(audited)))
    else:
        print_audit(audited, Console())
    if strict and audited.unsound:
        sys.exit(FINDING)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--baseline", type=click.Path(path_type=Path), required=True, help="The committed JSON file.")
@click.option("--update", is_flag=True, help="Write the run's numbers there; tolerances already in the file stay.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write JUnit's XML, a case for each row.")
@click.option("--github", is_flag=True, help="Also print findings as annotations of GitHub Actions.")
@click.option("--show", type=click.IntRange(min=0), default=40, show_default=True, help="Findings shown; 0 for all.")
@_refuse_clearly
def check(run: Path, baseline: Path, update: bool, junit: Path | None, github: bool, show: int) -> None:
    """Hold a run against a committed baseline; exit 1 if a number moved beyond its tolerance."""
    from rich.console import Console

    from rtdyn.judge.check import check as hold
    from rtdyn.views.terminal.findings import github_annotations, print_comparison, write_junit

    comparison = hold(run, baseline, update)
    if update:
        click.echo(f"wrote {baseline}")
    print_comparison(comparison, show, Console())
    if github:
        click.echo("\n".join(github_annotations(comparison, baseline, show)), nl=bool(comparison.findings))
    if junit is not None:
        write_junit(comparison, junit)
    if comparison.findings:
        sys.exit(FINDING)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@_refuse_clearly
def sync(run: Path) -> None:
    """Send a stored run to Weights & Biases: what it lacks after an offline or failed run, and no step twice."""
    from rtdyn.views.wandb.mirror import sync as send

    send(run, click.echo)


@main.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("--out", type=click.Path(path_type=Path), help="[default: RUN/report, of several runs report-compare]")
@click.option(
    "--at", help="Steps of the rank-influence curves, as for track; the last is that of the other one-step figures."
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@_refuse_clearly
def report(runs: tuple[Path, ...], out: Path | None, at: str | None, open_page: bool) -> None:
    """Draw a run: figures (PNG, PDF) and one HTML page that needs no network. Several runs share the plots."""
    from rich.console import Console

    from rtdyn.views.report.report import report as draw

    draw(runs, out, at, open_page, Console())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list for machines.")
@suites_option
@_refuse_clearly
def models(as_json: bool, suites: Path | None) -> None:
    """List the suites that are known by name."""
    from rtdyn.suites.find import load_suites

    known = load_suites(suites).values()
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "model": s.name,
                        "location": s.location,
                        "steps": None if s.pattern else len(s.steps),
                        "family": s.family,
                        "tokens_per_step": s.tokens_per_step,
                        "known_defects": len(s.flawed),
                    }
                    for s in known
                ]
            )
        )
        return
    width = max(len(s.name) for s in known)
    for s in known:
        note = f"  {len(s.flawed)} steps with known defects" if s.flawed else ""
        steps = "to be found" if s.pattern else f"{len(s.steps):5d} steps"
        click.echo(f"{s.name:{width}}  {steps}  {s.repo or s.note}{note}")


@main.command()
@model_option
@steps_option
@click.option("--json", "as_json", is_flag=True, help="Print a list for machines.")
@suites_option
@_refuse_clearly
def steps(model: str, pattern: RevisionPattern, steps: str, as_json: bool, suites: Path | None) -> None:
    """List a suite's steps, its tokens seen, and what is known to be wrong with them."""
    from rtdyn.hub.suite_on_hub import suite_on_hub
    from rtdyn.suites.find import find_suite, load_suites
    from rtdyn.suites.steps import parse_steps
    from rtdyn.views.terminal.steps import steps_lines, steps_records

    suite = find_suite(model, load_suites(suites), suite_on_hub, pattern)
    chosen = parse_steps(steps, suite.steps)
    click.echo(json.dumps(steps_records(suite, chosen)) if as_json else "\n".join(steps_lines(suite, chosen)))


if __name__ == "__main__":
    main()
