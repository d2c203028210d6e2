"""The options that several commands share: which suites, measured on what, analysed how and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from rtdyn.analyses.options import HEADS_AT, HEADS_TO, UNIGRAM, StepOptions
from rtdyn.cli_sources import SOURCES
from rtdyn.names import ANALYSES, WEIGHTS_ONLY
from rtdyn.sweep.cluster_options import ClusterOptions

Command = Callable[..., None]


def _all_of(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


class FiniteRange(click.FloatRange):
    """A range of finite numbers: click's own lets nan and inf pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, of which nan and inf are refused."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def suites_option(command: Command) -> Command:
    """Adds --suites."""
    return click.option(
        "--suites", type=click.Path(path_type=Path), help="A file of further suites, in the form of checkpoints.yaml."
    )(command)


def model_option(command: Command) -> Command:
    """Adds --model, for one suite."""
    return click.option(
        "--model", required=True, help="A suite's name, its Hub repository, or a folder of step*/ folders."
    )(command)


def steps_option(command: Command) -> Command:
    """Adds --steps."""
    return click.option(
        "--steps", default="all", show_default=True, help="all, log, last, 0,1,512, 1000:143000:1000, or a mix."
    )(command)


def models_option(command: Command) -> Command:
    """Adds --model, for one or several suites."""
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


_ANALYSES = (
    click.option(
        "--analyses",
        default="all",
        show_default=True,
        callback=_chosen_analyses,
        help=f"all, or some of {', '.join(ANALYSES)}, with commas; all need ablation, "
        "but heavytail alone reads the final layer's weights and no text.",
    ),
)
"""Which analyses."""

_MEASUREMENT = (
    click.option(
        "--rare",
        "bands",
        multiple=True,
        default=("paper-text",),
        show_default=True,
        help="Band of ranks: paper-text (15%), paper-code, N%, LOW:HIGH, or NAME= before one. The first is `rare`; "
        "repeat for more, or give `sweep` for 15, 5, 10, 20, 30 and 50%.",
    ),
    click.option(
        "--tokens",
        type=click.IntRange(min=1),
        help="Evaluation tokens, in place of --rare-targets.",
    ),
    click.option(
        "--rare-targets",
        type=click.IntRange(min=1),
        help="Rare targets to measure: as much text as holds them, at least 8192 tokens.  [default: 200]",
    ),
    click.option("--window", type=click.IntRange(min=8), default=256, show_default=True, help="Tokens a window."),
    click.option(
        "--bos",
        type=click.Choice(["prepend", "none"]),
        default="prepend",
        show_default=True,
        help="Whether each window begins with BOS.",
    ),
    click.option(
        "--class-by",
        type=click.Choice(["target", "query"]),
        default="target",
        show_default=True,
        help="Whose token decides a position's class.",
    ),
    click.option(
        "--mean-over",
        type=click.Choice(["kept", "all"]),
        default="kept",
        show_default=True,
        help="Positions that the ablation's mean activation is taken over.",
    ),
    click.option(
        "--rank-by",
        type=click.Choice(["mean_abs", "abs_mean"]),
        default="mean_abs",
        show_default=True,
        help="Influence that ranks neurons: mean |Δ| or |mean Δ|.",
    ),
    click.option(
        "--heads-to",
        type=click.Choice(HEADS_TO),
        default=StepOptions.heads_to,
        show_default=True,
        help="What an ablated head's output becomes: zero, or that of attention on the window's first token alone.",
    ),
    click.option(
        "--heads-at",
        type=click.Choice(HEADS_AT),
        default=StepOptions.heads_at,
        show_default=True,
        help="Where heads are ablated: at the measured position alone, or at every position of its window.",
    ),
    click.option(
        "--unigram",
        type=click.Choice(UNIGRAM),
        default=StepOptions.unigram,
        show_default=True,
        help="Unigram direction that mediation freezes: of all types, or of the rare band's alone.",
    ),
    click.option(
        "--min-targets",
        type=click.IntRange(min=2),
        default=50,
        show_default=True,
        help="Fewest positions a class may have.",
    ),
    click.option(
        "--positions-per-rare",
        type=FiniteRange(min=1),
        default=10.0,
        show_default=True,
        help="Positions measured of other classes, as a multiple of the rare ones.",
    ),
)
"""Which classes, at which positions, and what is measured of a neuron."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper-code": {
        "bands": ("paper-code",),
        "class_by": "query",
        "heads_to": "bos",
        "heads_at": "query",
        "unigram": "longtail",
    }
}
"""What each preset makes the default, by parameter. Of heads the papers' code ablates the measured position alone."""


def _apply_preset(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Makes a preset's values the defaults, so that whatever is given wins, in any order."""
    if name is not None:
        context.default_map = {**(context.default_map or {}), **PRESETS[name]}
    return name


def _written(names: Iterable[str], values: Mapping[str, Any]) -> str:
    """The options as one types them."""

    def words(name: str) -> Iterator[str]:
        option = "--rare" if name == "bands" else f"--{name.replace('_', '-')}"
        return (f"{option} {value}" for value in (values[name] if isinstance(values[name], tuple) else (values[name],)))

    return " ".join(word for name in names for word in words(name))


def preset_line() -> str | None:
    """What this command's --preset sets, and what was given instead, in one line; None without one."""
    context = click.get_current_context()
    preset = context.params["preset"]
    if preset is None:
        return None
    given = [n for n in PRESETS[preset] if context.get_parameter_source(n) is not ParameterSource.DEFAULT_MAP]
    chosen = [n for n in PRESETS[preset] if n not in given]
    instead = f"; given instead: {_written(given, context.params)}" if given else ""
    return f"--preset {preset} sets {_written(chosen, context.params) or 'nothing'}{instead}"


_PRESET = (
    click.option(
        "--preset",
        type=click.Choice(tuple(PRESETS)),
        is_eager=True,
        callback=_apply_preset,
        help="Do as the papers' released code does; an option that is given wins. "
        + "; ".join(f"{name}: {_written(values, values)}" for name, values in PRESETS.items())
        + ".",
    ),
)
"""Several options in one word."""

_COMPUTATION = (
    click.option(
        "--tolerance",
        type=FiniteRange(min=0),
        default=1e-5,
        show_default=True,
        help="Error a neuron's class mean may carry, in nats; 0 evaluates every pair exactly.",
    ),
    click.option(
        "--memory-gib",
        type=FiniteRange(min=0.0625),
        default=2.0,
        show_default=True,
        help="Memory for the ablation's blocks, beside the model and what is captured.",
    ),
    click.option(
        "--cache-gb",
        type=FiniteRange(min=0),
        default=20.0,
        show_default=True,
        help="Disk for checkpoints from the Hub that wait for their analysis, in 10^9 bytes; never less than one.",
    ),
    click.option(
        "--stream-layers",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="Run the model one layer at a time; auto: where it does not fit in memory.",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option(
        "--on-defect",
        type=click.Choice(["mark", "skip", "fail"]),
        default="mark",
        show_default=True,
        help="What to do with unsound steps: keep them out of trajectories, leave them out, or refuse to start.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every random draw."),
)
"""How exactly, and with how much of the machine."""


def analysis_options(command: Command) -> Command:
    """Adds --steps, what decides a step's tables, and how they are computed."""
    return _all_of((steps_option, *SOURCES, *_ANALYSES, *_PRESET, *_MEASUREMENT, *_COMPUTATION), command)


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


def check_executor(executor: str) -> None:
    """Refuses options of another executor, which would be passed over in silence, and CUDA where Ray gives no GPU."""
    context = click.get_current_context()
    for name, executors in _OPTIONS_OF.items():
        is_given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if is_given and executor not in executors:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} is for --executor {' or '.join(executors)}, and this is {executor}")
    asked = context.params
    if executor == "ray" and asked["device"] == "cuda" and not asked["task_gpus"]:
        raise click.UsageError("--device cuda, and tasks without a GPU; give --task-gpus 1")


_OPTIONS_OF = {
    **dict.fromkeys(("steps_per_task", "task_cpus", "task_gpus", "task_memory_gib"), ("slurm", "ray")),
    **dict.fromkeys(("slurm_partition", "slurm_account", "slurm_time", "slurm_option"), ("slurm",)),
    "ray_address": ("ray",),
}

_CLUSTER = (
    click.option(
        "--executor",
        type=click.Choice(["serial", "slurm", "ray"]),
        default=ClusterOptions.executor,
        show_default=True,
        help="Where steps are analysed: here, or by workers on a Slurm or a Ray cluster.",
    ),
    click.option(
        "--steps-per-task",
        type=click.IntRange(min=1),
        default=ClusterOptions.steps_per_task,
        show_default=True,
        help="Checkpoints a task of a cluster.",
    ),
    click.option(
        "--task-cpus",
        type=click.IntRange(min=1),
        default=ClusterOptions.task_cpus,
        show_default=True,
        help="CPUs, and threads, a task.",
    ),
    click.option(
        "--task-gpus",
        type=click.IntRange(min=0),
        default=ClusterOptions.task_gpus,
        show_default=True,
        help="GPUs a task.",
    ),
    click.option("--task-memory-gib", type=FiniteRange(min=0.125), help="Memory a task.  [default: the cluster's]"),
    click.option("--slurm-partition", help="[default: the cluster's]"),
    click.option("--slurm-account", help="[default: the user's]"),
    click.option(
        "--slurm-time",
        type=click.IntRange(min=1),
        default=ClusterOptions.slurm_time,
        show_default=True,
        help="Minutes a job may take.",
    ),
    click.option(
        "--slurm-option",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_settings,
        help="Any other option of sbatch, such as qos=high; repeat for more.",
    ),
    click.option("--ray-address", help="[default: RAY_ADDRESS, or the cluster on this machine, or one of its own]"),
)


def cluster_options(command: Command) -> Command:
    """Adds --executor and what it needs."""
    return _all_of(_CLUSTER, command)
