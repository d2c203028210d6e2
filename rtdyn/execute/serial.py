"""One step after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.store import StepTables


def run_serial(
    checkpoints: Iterable[Checkpoint],
    analyse: Callable[[Checkpoint], StepTables],
    done: Callable[[Checkpoint, StepTables], None],
) -> None:
    """Analyses each checkpoint as it arrives and hands its tables to `done` before taking the next."""
    for checkpoint in checkpoints:
        done(checkpoint, analyse(checkpoint))
