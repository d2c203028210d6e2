"""A cluster as the driver sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rtdyn.execute.task import Task

LOGS = "workers"
"""Folder of a run where clusters keep what their workers print, until all steps are stored."""


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
