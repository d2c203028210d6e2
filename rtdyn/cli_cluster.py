"""The options that say where steps are analysed: here, or by workers on a cluster."""

from __future__ import annotations

import click
from click.core import ParameterSource

from rtdyn.cli_command import Command, all_of, in_panel
from rtdyn.cli_options import FiniteRange
from rtdyn.sweep.cluster_options import ClusterOptions


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
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE  # files and variables are of many
        if is_given and executor not in executors:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} is for --executor {' or '.join(executors)}, and this is {executor}")
    asked = context.params
    if executor == "ray" and asked["device"] == "cuda" and not asked["task_gpus"]:
        raise click.UsageError("--device cuda, and tasks without a GPU; give --task-gpus 1")


def of_other_executors(executor: str) -> frozenset[str]:
    """The parameters that say nothing of a run by this executor."""
    return frozenset(name for name, executors in _OPTIONS_OF.items() if executor not in executors)


_OPTIONS_OF = {
    **dict.fromkeys(("steps_per_task", "task_cpus", "task_gpus", "task_memory_gib"), ("slurm", "ray")),
    **dict.fromkeys(("slurm_partition", "slurm_account", "slurm_time", "slurm_option"), ("slurm",)),
    "ray_address": ("ray",),
}

_CLUSTER = in_panel(
    "Cluster",
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
    click.option("--slurm-partition", help="Partition of the jobs.  [default: the cluster's]"),
    click.option("--slurm-account", help="Account that the jobs are charged to.  [default: the user's]"),
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
    click.option(
        "--ray-address",
        help="Ray cluster to join.  [default: RAY_ADDRESS, or the cluster on this machine, or one of its own]",
    ),
)


def cluster_options(command: Command) -> Command:
    """Adds --executor and what it needs."""
    return all_of(_CLUSTER, command)
