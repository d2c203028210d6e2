"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from rtdyn import __version__
from rtdyn.analyses import ANALYSES, WEIGHTS_ONLY

FINDING, INTERRUPTED = 1, 130
_PLANNED = (
    *("models", "steps", "suites", "corpus", "text_field", "frequencies", "frequency_tokens", "analyses", "bands"),
    *("tokens", "window", "bos", "class_by", "mean_over", "rank_by", "min_targets", "positions_per_rare", "tolerance"),
    *("memory_gib", "cache_gb", "stream_layers", "device", "on_defect", "seed"),
)
"""Options of `track` that `plan` has too."""


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
        except KeyboardInterrupt:
            click.echo("rtdyn: interrupted; the same command goes on where it stopped", err=True)
            sys.exit(INTERRUPTED)

    return guarded


def _suites_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--suites", type=click.Path(path_type=Path), help="A file of further suites, in the form of checkpoints.yaml."
    )(command)


def _models_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--model",
        "models",
        required=True,
        multiple=True,
        help="A suite's name, its Hub repository, or a folder of step*/ folders. Repeat it, or give a quoted pattern "
        "('pythia-*-seed*', 'runs/*'), for several suites.",
    )(command)


def _chosen_analyses(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = ANALYSES if value == "all" else tuple(dict.fromkeys(part.strip() for part in value.split(",")))
    unknown = [name for name in names if name not in ANALYSES]
    if unknown:
        raise click.BadParameter(f"no analysis is called {unknown[0]!r}; there are {', '.join(ANALYSES)}")
    if "ablation" not in names and set(names) - set(WEIGHTS_ONLY):
        raise click.BadParameter(
            f"all but {', '.join(WEIGHTS_ONLY)} alone start from the influence of the neurons; add ablation"
        )
    return tuple(name for name in ANALYSES if name in names)


class _FiniteRange(click.FloatRange):
    """A range of finite numbers: click's own lets nan and inf pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def _settings(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    pairs = [text.removeprefix("--").partition("=") for text in value]
    wrong = next((text for text, (key, equals, _) in zip(value, pairs, strict=True) if not key or not equals), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not of the form key=value")
    for key, _, _ in pairs:
        instead = _SLURM_OWN.get(key.replace("_", "-"))
        if instead is not None:
            raise click.BadParameter(f"{key!r} is rtdyn's own to set; {instead}")
    return tuple((key, setting) for key, _, setting in pairs)


_SLURM_OWN = {
    "time": "use --slurm-time",
    "cpus-per-task": "use --task-cpus",
    **dict.fromkeys(
        ("job-name", "array", "output", "error", "open-mode", "signal"), "its jobs are watched by it, so leave it out"
    ),
}
"""Options of sbatch that the watch over the jobs depends on, with what to do instead."""


def _check_executor(executor: str) -> None:
    """Refuses options of another executor, which would be passed over in silence, and CUDA without GPUs."""
    context = click.get_current_context()
    for name, executors in _OPTIONS_OF.items():
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and executor not in executors:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} is for --executor {' or '.join(executors)}, and this is {executor}")
    asked = context.params
    by_name = any(key.startswith(("gpu", "gres", "tres")) for key, _ in asked["slurm_option"])
    if executor != "serial" and asked["device"] == "cuda" and not asked["task_gpus"] and not by_name:
        raise click.UsageError("--device cuda, and tasks without a GPU; give --task-gpus 1")


_OPTIONS_OF = {
    **dict.fromkeys(("steps_per_task", "task_cpus", "task_gpus", "task_memory_gib"), ("slurm", "ray")),
    **dict.fromkeys(("slurm_partition", "slurm_account", "slurm_time", "slurm_option"), ("slurm",)),
    "ray_address": ("ray",),
}


def _cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    number = click.IntRange(min=1)
    options = (
        click.option(
            "--executor",
            type=click.Choice(["serial", "slurm", "ray"]),
            default="serial",
            show_default=True,
            help="Where steps are analysed: here, or by workers on a Slurm or a Ray cluster.",
        ),
        click.option(
            "--steps-per-task", type=number, default=1, show_default=True, help="Checkpoints a task of a cluster."
        ),
        click.option("--task-cpus", type=number, default=1, show_default=True, help="CPUs, and threads, a task."),
        click.option("--task-gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs a task."),
        click.option(
            "--task-memory-gib", type=_FiniteRange(min=0.125), help="Memory a task.  [default: the cluster's]"
        ),
        click.option("--slurm-partition", help="[default: the cluster's]"),
        click.option("--slurm-account", help="[default: the user's]"),
        click.option("--slurm-time", type=number, default=240, show_default=True, help="Minutes a job may take."),
        click.option(
            "--slurm-option",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_settings,
            help="Any other option of sbatch, such as qos=high; repeat for more.",
        ),
        click.option("--ray-address", help="[default: RAY_ADDRESS, or the cluster on this machine, or one of its own]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Follow how a language model's final layer specialises for rare tokens, checkpoint by checkpoint."""


@main.command()
@_models_option
@click.option("--steps", default="all", show_default=True, help="all, log, last, 0,1,512, 1000:143000:1000, or a mix.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run directory, of several suites the folder of theirs.  [default: runs/<model>-<configuration>]",
)
@click.option(
    "--corpus",
    help="Evaluation text: a .txt, .jsonl or .parquet file, or hf://datasets/OWNER/NAME/PATH.  [default: the suite's]",
)
@click.option("--text-field", default="text", show_default=True, help="Column of the text in .jsonl and .parquet.")
@click.option(
    "--frequencies",
    help="Counts: a .npy or .parquet file, hf://datasets/OWNER/NAME/PATH, or `corpus`.  [default: the suite's]",
)
@click.option(
    "--frequency-tokens",
    type=click.IntRange(min=1),
    default=1 << 27,
    show_default=True,
    help="Tokens to count of a data set on the Hub.",
)
@click.option(
    "--analyses",
    default="all",
    show_default=True,
    callback=_chosen_analyses,
    help=f"all, or some of {', '.join(ANALYSES)}, with commas; all need ablation, "
    "but heavytail alone reads the final layer's weights and no text.",
)
@click.option(
    "--rare",
    "bands",
    multiple=True,
    default=("paper-text",),
    show_default=True,
    help="Band of ranks: paper-text, paper-code, LOW:HIGH or NAME=LOW:HIGH. The first is `rare`; repeat for more.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    help="Evaluation tokens.  [default: what gives 200 rare targets, at least 8192]",
)
@click.option("--window", type=click.IntRange(min=8), default=256, show_default=True, help="Tokens a window.")
@click.option(
    "--bos",
    type=click.Choice(["prepend", "none"]),
    default="prepend",
    show_default=True,
    help="Whether each window begins with BOS.",
)
@click.option(
    "--class-by",
    type=click.Choice(["target", "query"]),
    default="target",
    show_default=True,
    help="Whose token decides a position's class.",
)
@click.option(
    "--mean-over",
    type=click.Choice(["kept", "all"]),
    default="kept",
    show_default=True,
    help="Positions that the ablation's mean activation is taken over.",
)
@click.option(
    "--rank-by",
    type=click.Choice(["mean_abs", "abs_mean"]),
    default="mean_abs",
    show_default=True,
    help="Influence that ranks neurons: mean |Δ| or |mean Δ|.",
)
@click.option(
    "--min-targets",
    type=click.IntRange(min=2),
    default=50,
    show_default=True,
    help="Fewest positions a class may have.",
)
@click.option(
    "--positions-per-rare",
    type=_FiniteRange(min=1),
    default=10.0,
    show_default=True,
    help="Positions measured of other classes, as a multiple of the rare ones.",
)
@click.option(
    "--tolerance",
    type=_FiniteRange(min=0),
    default=1e-5,
    show_default=True,
    help="Error a neuron's class mean may carry, in nats; 0 evaluates every pair exactly.",
)
@click.option(
    "--memory-gib",
    type=_FiniteRange(min=0.0625),
    default=2.0,
    show_default=True,
    help="Memory for the ablation's blocks, beside the model and what is captured.",
)
@click.option(
    "--cache-gb",
    type=_FiniteRange(min=0),
    default=20.0,
    show_default=True,
    help="Disk for checkpoints from the Hub that wait for their analysis, in 10^9 bytes; never less than one.",
)
@click.option(
    "--stream-layers",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Run the model one layer at a time; auto: where it does not fit in memory.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--wandb",
    type=click.Choice(["online", "offline", "disabled"]),
    help="[default: online if there is a key, else offline]",
)
@click.option(
    "--on-defect",
    type=click.Choice(["mark", "skip", "fail"]),
    default="mark",
    show_default=True,
    help="What to do with unsound steps: keep them out of trajectories, leave them out, or refuse to start.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every random draw.")
@_cluster_options
@_suites_option
@_refuse_clearly
def track(
    models: tuple[str, ...],
    steps: str,
    out: Path | None,
    wandb: str | None,
    on_defect: str,
    suites: Path | None,
    **options: Any,
) -> None:
    """Analyse the checkpoints of a suite, or of several, into a run directory each; the same command resumes."""
    _check_executor(options["executor"])
    from rich.console import Console

    from rtdyn.registry import SuiteSpec, find_suites, load_suites, parse_steps

    found, several = find_suites(models, load_suites(suites))
    chosen = {suite: parse_steps(steps, suite.steps, f"{suite.name}: " if several else "") for suite in found}
    from rtdyn.evaluation import EvaluationOptions
    from rtdyn.execute.engine import ClusterOptions
    from rtdyn.many import group_of, raise_failures, track_many
    from rtdyn.step import StepOptions
    from rtdyn.track import track as run_track
    from rtdyn.views.side_by_side import print_side_by_side

    measured_on = EvaluationOptions(**{f.name: options[f.name] for f in fields(EvaluationOptions)})
    analysed = StepOptions(**{f.name: options[f.name] for f in fields(StepOptions)})
    cluster = ClusterOptions(**{f.name: options[f.name] for f in fields(ClusterOptions)})
    command, console = shlex.join(["rtdyn", *sys.argv[1:]]), Console()
    group = group_of(found, measured_on, analysed) if several else None

    def one(suite: SuiteSpec, place: Path | None) -> Any:
        gb = options["cache_gb"]
        return run_track(
            suite, chosen[suite], measured_on, analysed, place, wandb, on_defect, gb, cluster, console, command, group
        )

    if not several:
        one(found[0], out)
        return
    outcomes = track_many(found, one, out, console)
    print_side_by_side(outcomes, console)
    raise_failures(outcomes)


@main.command()
@click.option(
    "--link-mbit",
    type=_FiniteRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Download rate assumed, in Mbit/s.",
)
@click.option(
    "--gpu-tflops",
    type=_FiniteRange(min=0, min_open=True),
    nargs=2,
    metavar="F32 F64",
    help="Add the hours with one GPU that sustains so many TFLOP/s in float32 and in float64 products.",
)
@click.option(
    "--calibration/--no-calibration", default=True, help="Time this machine for some seconds, or leave hours out."
)
@click.option("--json", "as_json", is_flag=True, help="Print an object for machines.")
@_refuse_clearly
def plan(
    models: tuple[str, ...],
    steps: str,
    suites: Path | None,
    on_defect: str,
    link_mbit: float,
    gpu_tflops: tuple[float, float] | None,
    calibration: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what `rtdyn track` with the same options would cost: downloads, operations, memory, disk, hours."""
    from rich.console import Console

    from rtdyn.registry import find_suites, load_suites, parse_steps

    found, several = find_suites(models, load_suites(suites))
    chosen = {suite: parse_steps(steps, suite.steps, f"{suite.name}: " if several else "") for suite in found}
    from rtdyn.calibration import seconds_on
    from rtdyn.evaluation import EvaluationOptions
    from rtdyn.memory import available_bytes
    from rtdyn.plan import Assumptions, HubAsker, plan_suite
    from rtdyn.step import StepOptions
    from rtdyn.sweep import device_here
    from rtdyn.views.plan import plan_record, print_plan

    device = device_here(options["device"])
    options |= {"device": device, "task_memory_gib": None}
    measured_on = EvaluationOptions(**{f.name: options[f.name] for f in fields(EvaluationOptions)})
    analysed = StepOptions(**{f.name: options[f.name] for f in fields(StepOptions)})
    assumptions = Assumptions(link_mbit, gpu_tflops or None, available_bytes(device))

    def say(text: str) -> None:
        click.echo(text, err=True)

    hub, seconds_of, gb = HubAsker(say), seconds_on(device) if calibration else None, options["cache_gb"]
    plans = [
        plan_suite(suite, own, measured_on, analysed, on_defect, gb, assumptions, hub, seconds_of, say)
        for suite, own in chosen.items()
    ]
    if as_json:
        click.echo(json.dumps(plan_record(plans, assumptions)))
    else:
        print_plan(plans, assumptions, Console())


plan.params[:0] = [option for option in track.params if option.name in _PLANNED]


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="A list of objects instead of a table.")
@_refuse_clearly
def claims(run: Path, as_json: bool) -> None:
    """The scorecard: what a run's trajectories say of each published claim."""
    from rich.console import Console

    from rtdyn.claims import claims as judge

    judge(run, as_json, Console())


@main.command()
@click.option("--model", required=True, help="A suite's name, its Hub repository, or a folder of step*/ folders.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for machines.")
@click.option("--strict", is_flag=True, help="Exit 1 if any step is not sound.")
@_suites_option
@_refuse_clearly
def audit(model: str, as_json: bool, strict: bool, suites: Path | None) -> None:
    """Say which steps of a suite are missing, repeated or suspect, from metadata, before any download."""
    from rich.console import Console

    from rtdyn.checkpoints.survey import audit_suite
    from rtdyn.registry import find_suite, load_suites
    from rtdyn.views.audit import audit_record, print_audit

    found = audit_suite(find_suite(model, load_suites(suites)))
    if as_json:
        click.echo(json.dumps(audit_record(found)))
    else:
        print_audit(found, Console())
    if strict and found.unsound:
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

    from rtdyn.check import check as hold
    from rtdyn.views.findings import github_annotations, print_comparison, write_junit

    found = hold(run, baseline, update)
    if update:
        click.echo(f"wrote {baseline}")
    print_comparison(found, show, Console())
    if github:
        click.echo("\n".join(github_annotations(found, baseline, show)), nl=bool(found.findings))
    if junit is not None:
        write_junit(found, junit)
    if found.findings:
        sys.exit(FINDING)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@_refuse_clearly
def sync(run: Path) -> None:
    """Send a stored run to Weights & Biases: what it lacks after an offline or failed run, and no step twice."""
    from rtdyn.views.wandb import sync as send

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

    from rtdyn.views.report import report as draw

    draw(runs, out, at, open_page, Console())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list for machines.")
@_suites_option
@_refuse_clearly
def models(as_json: bool, suites: Path | None) -> None:
    """List the suites that are known by name."""
    from rtdyn.registry import load_suites

    known = load_suites(suites).values()
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "model": s.name,
                        "location": s.location,
                        "steps": len(s.steps),
                        "family": s.family,
                        "tokens_per_step": s.tokens_per_step,
                        "known_defects": len({d for x in s.defects for d in x.steps}),
                    }
                    for s in known
                ]
            )
        )
        return
    width = max(len(s.name) for s in known)
    for s in known:
        flawed = len({step for defect in s.defects for step in defect.steps})
        note = f"  {flawed} steps with known defects" if flawed else ""
        click.echo(f"{s.name:{width}}  {len(s.steps):3d} steps  {s.repo or s.note}{note}")


@main.command()
@click.option("--model", required=True, help="A suite's name, its Hub repository, or a folder of step*/ folders.")
@click.option("--steps", default="all", show_default=True, help="all, log, last, 0,1,512, 1000:143000:1000, or a mix.")
@click.option("--json", "as_json", is_flag=True, help="Print a list for machines.")
@_suites_option
@_refuse_clearly
def steps(model: str, steps: str, as_json: bool, suites: Path | None) -> None:
    """List a suite's steps, its tokens seen, and what is known to be wrong with them."""
    from rtdyn.registry import find_suite, load_suites, parse_steps

    suite = find_suite(model, load_suites(suites))
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "revision": suite.revision_of(step),
            "tokens_seen": suite.tokens_seen(step),
            "defects": [f"{d.kind}: {d.note} ({d.source})" for d in suite.defects if step in d.steps],
        }
        for step in parse_steps(steps, suite.steps)
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        tokens = "" if row["tokens_seen"] is None else f"{row['tokens_seen']:>18,} tokens"
        click.echo(f"{row['revision']:>12}{tokens}  {'; '.join(row['defects'])}".rstrip())


if __name__ == "__main__":
    main()
