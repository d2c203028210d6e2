"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtdyn.cli_boundary import FINDING, Boundary, refuse_clearly
from rtdyn.cli_cluster import check_executor, cluster_options, of_other_executors
from rtdyn.cli_command import JobCommand, all_of, in_panel
from rtdyn.cli_complete import complete_runs, runs_argument
from rtdyn.cli_config import settings_of
from rtdyn.cli_follow import check_follow, follow_options, of_followed_runs
from rtdyn.cli_listing import LISTINGS
from rtdyn.cli_options import FiniteRange, analysis_options, listed
from rtdyn.cli_presets import paper_settings, preset_line
from rtdyn.cli_suites import model_option, models_option, suites_option
from rtdyn.cli_workspace import workspace
from rtdyn.names import TRACKERS, TRACKIO, WANDB
from rtdyn.version import __version__

if TYPE_CHECKING:
    from rtdyn.suites.forms import RevisionPattern


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.group(
    cls=Boundary,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "auto_envvar_prefix": "RTDYN"},
)
@click.version_option(__version__)
def main() -> None:
    """Follow how a language model's final layer specialises for rare tokens, checkpoint by checkpoint."""


_EXAMPLES = """\b
Examples:
  rtdyn track --model tiny
  rtdyn track --model pythia-160m --steps log --analyses ablation,regimes
  rtdyn track --model checkpoints/mine --corpus held-out.jsonl --quiet --json

\b
Exit codes:
  0 done   1 the model is not read as transformers runs it   2 usage
  3 a source cannot be used, or steps could not be analysed   130 interrupted

Each option can be set by a variable too, as --seed by RTDYN_TRACK_SEED. The command line wins over variables, these
over --config, that over --preset.
"""

_tracker = click.option(
    "--tracker",
    type=click.Choice(TRACKERS),
    default=WANDB,
    show_default=True,
    help="What shows the numbers as they come; trackio keeps them on this machine, without an account.",
)
_no_report_upload = click.option(
    "--no-report-upload", is_flag=True, help="Draw no figures and no page at the end to be sent to W&B."
)
_OUTPUT = in_panel(
    "Output",
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Run directory, of several suites the folder of theirs.  [default: runs/<model>-<configuration>]",
    ),
    click.option(
        "--wandb",
        type=click.Choice(["online", "offline", "disabled"]),
        help="Weights & Biases.  [default: online if there is a key, else offline]",
    ),
    _tracker,
    _no_report_upload,
    click.option("--quiet", "-q", is_flag=True, help="Say what came out and what went wrong, and no progress."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print a list with an object for each suite, instead of tables."
    ),
)


@main.command(cls=JobCommand, epilog=_EXAMPLES)
@models_option
@analysis_options
@follow_options
@cluster_options
@partial(all_of, _OUTPUT)
@suites_option
@refuse_clearly
def track(
    models: tuple[str, ...],
    pattern: RevisionPattern,
    steps: str,
    suites: Path | None,
    out: Path | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Analyse the checkpoints of a suite, or of several, into a run directory each; the same command resumes.

    Progress goes to standard error, results to standard output.
    """
    check_executor(options["executor"])
    check_follow(options["follow"])
    from rich.console import Console

    from rtdyn.cli_jobs import followed, jobs_of

    needless = of_other_executors(options["executor"]) | of_followed_runs(options["follow"])
    settings = settings_of(click.get_current_context(), needless)
    asked = {**options, "out": out, "command": shlex.join(["rtdyn", *sys.argv[1:]]), "settings": settings}
    asked["paper"] = paper_settings()
    progress, results = Console(stderr=True, quiet=quiet), Console(quiet=as_json)
    if (line := preset_line()) and not quiet:
        click.echo(line, err=True)
    from rtdyn.errors import InputError
    from rtdyn.many import outcome_of, raise_failures, track_many
    from rtdyn.tracking import track as run_track
    from rtdyn.views.terminal.designs import print_designs
    from rtdyn.views.terminal.runs import outcome_record
    from rtdyn.views.terminal.side_by_side import print_side_by_side

    several, tracking = False, partial(run_track, results=results)
    if options["follow"]:
        following = partial(followed, models, pattern, steps, suites, asked, progress, results)
        outcomes = [outcome_of(models[0], following)]
    else:
        jobs, several = jobs_of(models, pattern, steps, suites, asked, _say)
        if len(jobs) > 1 or several:
            outcomes = track_many(jobs, tracking, out, progress)
            (print_side_by_side if asked["paper"] is None else print_designs)(outcomes, results)
        else:
            outcomes = [outcome_of(jobs[0].suite.name, partial(tracking, jobs[0], progress))]
    if as_json:
        click.echo(json.dumps([outcome_record(outcome) for outcome in outcomes]))
    if len(outcomes) > 1 or several:
        raise_failures(outcomes, "suites" if asked["paper"] is None else "runs")
    elif outcomes[0].failure is not None:
        raise InputError(outcomes[0].failure)


@main.command(cls=JobCommand)
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
@refuse_clearly
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

    jobs, _ = jobs_of(models, pattern, steps, suites, {**options, "paper": paper_settings()}, _say)
    import torch

    from rtdyn.capture.free_memory import available_bytes
    from rtdyn.cost.machine import seconds_on
    from rtdyn.cost.plan import Assumptions, HubAsker, plan_suite
    from rtdyn.sweep.sweep import device_here
    from rtdyn.views.terminal.cost import plan_record, print_plan

    device = device_here(options["device"])
    assumptions = Assumptions(link_mbit, gpu_tflops or None, available_bytes(device), torch.get_num_threads())
    if line := preset_line():
        _say(line)
    hub, seconds_of = HubAsker(_say), seconds_on(device) if calibration else None
    here = [replace(job, options=replace(job.options, device=device)) for job in jobs]
    plans = [plan_suite(job, assumptions, hub, seconds_of, _say) for job in here]
    if as_json:
        click.echo(json.dumps(plan_record(plans, assumptions)))
    else:
        print_plan(plans, assumptions, Console())


@main.command()
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_runs)
@click.option("--json", "as_json", is_flag=True, help="A list of objects instead of a table.")
@refuse_clearly
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
@refuse_clearly
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
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_runs)
@click.option("--baseline", type=click.Path(path_type=Path), required=True, help="The committed JSON file.")
@click.option("--update", is_flag=True, help="Write the run's numbers there; tolerances already in the file stay.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write JUnit's XML, a case for each row.")
@click.option("--github", is_flag=True, help="Also print findings as annotations of GitHub Actions.")
@click.option("--show", type=click.IntRange(min=0), default=40, show_default=True, help="Findings shown; 0 for all.")
@click.option("--json", "as_json", is_flag=True, help="Print an object with every finding instead of a table.")
@refuse_clearly
def check(run: Path, baseline: Path, update: bool, junit: Path | None, github: bool, show: int, as_json: bool) -> None:
    """Hold a run against a committed baseline; exit 1 if a number moved beyond its tolerance."""
    from rich.console import Console

    from rtdyn.judge.check import check as hold
    from rtdyn.views.terminal.findings import comparison_record, github_annotations, print_comparison, write_junit

    if github and as_json:
        raise click.UsageError("--json and --github both write to standard output; give one of them")
    comparison = hold(run, baseline, update)
    if update:
        click.echo(f"wrote {baseline}", err=True)
    if as_json:
        click.echo(json.dumps(comparison_record(comparison)))
    else:
        print_comparison(comparison, show, Console())
    if github:
        click.echo("\n".join(github_annotations(comparison, baseline, show)), nl=bool(comparison.findings))
    if junit is not None:
        write_junit(comparison, junit)
    if comparison.findings:
        sys.exit(FINDING)


@main.command()
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_runs)
@_tracker
@_no_report_upload
@refuse_clearly
def sync(run: Path, tracker: str, no_report_upload: bool) -> None:
    """Send a stored run to Weights & Biases: what it lacks after an offline or failed run, and no step twice."""
    if tracker == TRACKIO:
        from rtdyn.views.tracker import refuse_report
        from rtdyn.views.trackio import sync_trackio

        refuse_report(no_report_upload)
        sync_trackio(run, click.echo)
        return
    from rtdyn.views.wandb.mirror import sync as send

    send(run, click.echo, not no_report_upload)


@main.command()
@runs_argument
@click.option("--out", type=click.Path(path_type=Path), help="[default: RUN/report, of several runs report-compare]")
@click.option(
    "--at", help="Steps of the rank-influence curves, as for track; the last is that of the other one-step figures."
)
@click.option("--figures", metavar="NAME[,NAME]", help="These figures alone, by their files' names, and no page.")
@click.option("--format", "formats", default="png,pdf", show_default=True, help="Of figures: of png, pdf and svg.")
@click.option(
    "--width", type=click.Choice(["single", "double"]), help="Figures as wide as one column of a journal, or two."
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@refuse_clearly
def report(
    runs: tuple[Path, ...],
    out: Path | None,
    at: str | None,
    figures: str | None,
    formats: str,
    width: str | None,
    open_page: bool,
) -> None:
    """Draw a run: figures (PNG, PDF) and one HTML page that needs no network. Several runs share the plots."""
    from rich.console import Console

    from rtdyn.views.report.report import Drawn
    from rtdyn.views.report.report import report as draw

    drawn = Drawn(listed(figures) if figures else (), listed(formats), width)
    draw(runs, out, at, open_page, Console(), drawn)


for further in (*LISTINGS, workspace):
    main.add_command(further)


if __name__ == "__main__":
    main()
