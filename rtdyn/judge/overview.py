"""What a run directory holds and how far it is, without its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rtdyn.errors import InputError
from rtdyn.judge.observations import is_recorded, read_judged
from rtdyn.store.manifest import Manifest
from rtdyn.store.run import MANIFEST, TASKS, Run, done_steps, is_held

RUNNING, TASKS_LEFT, CUT_OFF, INCOMPLETE, DONE, EMPTY = (
    "running",
    "tasks left",
    "cut off",
    "incomplete",
    "done",
    "empty",
)
"""States of a run. A process writes to it; a cluster may; one was killed; steps failed or wait; all is stored; none."""


@dataclass(frozen=True)
class Overview:
    """One run directory."""

    run: Run
    stored: tuple[int, ...]
    """Steps that are stored whole, ascending."""
    state: str

    @property
    def manifest(self) -> Manifest:
        """manifest.json, with the steps that trajectories leave out."""
        return self.run.manifest

    @property
    def missing(self) -> tuple[int, ...]:
        """Steps asked for that are not stored, ascending."""
        return tuple(step for step in self.manifest.asked if step not in self.stored)


def overview(path: Path) -> Overview:
    """The run at `path`. Raises InputError if there is none or it cannot be read."""
    run = read_judged(path)
    stored = done_steps(run)
    return Overview(run, tuple(stored), _state(run, tuple(stored)))


def runs_in(folder: Path) -> Iterator[Overview | InputError]:
    """Every run directory in a folder by its name, and why one cannot be read.

    Raises InputError if the folder is not there or holds no run.
    """
    paths = sorted(file.parent for file in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder} holds no run directory; give the folder that holds yours")
    for path in paths:
        try:
            yield overview(path)
        except InputError as error:
            yield error


def _state(run: Run, stored: tuple[int, ...]) -> str:
    if is_held(run.path):
        return RUNNING
    if (run.path / TASKS).is_dir():
        return TASKS_LEFT
    if not is_recorded(run, stored):
        return CUT_OFF
    if set(run.manifest.asked) - set(stored):
        return INCOMPLETE
    return DONE if stored else EMPTY
