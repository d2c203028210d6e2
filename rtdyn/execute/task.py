"""What a cluster's worker is given: some steps of a run, and all it needs to analyse them as the run does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker sets its environment before it imports anything large
    from rtdyn.analyses.options import StepOptions
    from rtdyn.suites.suite import SuiteSpec
    from rtdyn.text.evaluation import EvaluationOptions


@dataclass(frozen=True)
class Task:
    """Steps for one worker. Pickled; nothing in it is secret."""

    name: str
    """No other task's, of whatever run."""
    run: Path
    """The run directory, absolute: every node sees it there."""
    config_digest: str
    """The run's; a worker that comes to another one refuses."""
    folder: Path
    """Where the command was given: relative paths count from it."""
    suite: SuiteSpec
    steps: tuple[int, ...]
    reference: int
    """The step that evaluation and configuration are taken from."""
    measured_on: EvaluationOptions
    options: StepOptions
    cache_gb: float


def grouped(units: Sequence[tuple[int, ...]], analyses_per_task: int) -> list[tuple[int, ...]]:
    """The steps of each task: so many units together, in their order.

    units: steps of the same weights, which are fetched and analysed once and so belong in one task.
    """
    size = analyses_per_task
    return [tuple(sorted(step for unit in units[i : i + size] for step in unit)) for i in range(0, len(units), size)]


def thread_variables(cpus: int) -> dict[str, str]:
    """Environment variables by which the numerical libraries use `cpus` threads; they read them when imported."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")
    return dict.fromkeys(names, str(cpus))
