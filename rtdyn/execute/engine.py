"""A cluster as the driver sees it, and how a command asks for one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rtdyn.execute.task import Task

LOGS = "workers"
"""Folder of a run where clusters keep what their workers print, until all steps are stored."""


@dataclass(frozen=True)
class ClusterOptions:
    """Settings of the executor, by the names of the command line."""

    executor: str
    steps_per_task: int
    task_cpus: int
    task_gpus: int
    task_memory_gib: float | None
    slurm_partition: str | None
    slurm_account: str | None
    slurm_time: int
    """Minutes."""
    slurm_option: tuple[tuple[str, str], ...]
    ray_address: str | None

    def device(self, asked: str) -> str:
        """`cpu` or `cuda` for the tasks, which may have GPUs that the machine of the command lacks."""
        return ("cuda" if self.task_gpus else "cpu") if asked == "auto" else asked


class SilentError(Exception):
    """The cluster does not answer; what it was given may be running."""


@dataclass(frozen=True)
class Engine:
    """A cluster that tasks can be given to, by their names."""

    executor: str
    place: str
    """Which one, as one would name it to a user."""
    outlives: bool
    """Whether tasks go on when the command that gave them dies."""
    most_at_once: int
    """Tasks in one submission."""
    submit: Callable[[str, Sequence[Task]], None]
    """Gives it tasks, under a name that they have in common: task i is called `common.i`. Raises InputError."""
    alive: Callable[[Collection[str]], Collection[str]]
    """Those of the named tasks that wait or run. Raises SilentError."""
    withdraw: Callable[[Collection[str]], None]
    """Ends the named tasks, waiting or running."""
    last_words: Callable[[str], str | None]
    """What a task that has ended printed last, if anything."""
