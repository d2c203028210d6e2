"""What a cluster's worker is given: some steps of a run, and all it needs to analyse them as the run does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rtdyn.names import CORPORA, COUNTS, HUB_SCHEME, PILE

if TYPE_CHECKING:  # a worker sets its environment before it imports anything large
    from rtdyn.analyses.options import StepOptions
    from rtdyn.store.run import Run
    from rtdyn.suites.suite import SuiteSpec
    from rtdyn.sweep.job import Job
    from rtdyn.text.options import EvaluationOptions


@dataclass(frozen=True)
class Task:
    """Steps for one worker. Pickled; all paths are absolute, and nothing in it is secret."""

    name: str
    """No other task's, of whatever run."""
    run: Path
    """The run directory: every node sees it there."""
    config_digest: str
    """The run's; a worker that comes to another one refuses."""
    location: str
    """The suite's as the run's configuration has it, which may be a relative path."""
    suite: SuiteSpec
    """Whose checkpoints the steps are."""
    steps: tuple[int, ...]
    """To be stored, ascending."""
    reference: int
    """The step that evaluation and configuration are taken from."""
    measured_on: EvaluationOptions
    """Settings of the evaluation set."""
    options: StepOptions
    """Settings of the analyses."""
    cache_gb: float
    """Disk for checkpoints from the Hub that wait for their analysis, in 10^9 bytes."""


def task_template(job: Job, run: Run, reference: int) -> Task:
    """A task of this run, but for its name and steps. Relative paths of the job count from the current folder."""
    suite, measured_on = job.suite, job.measured_on
    if suite.path is not None:
        suite = replace(suite, path=suite.path.absolute())
    else:
        suite = replace(suite, frequencies=_absolute(suite.frequencies, *COUNTS))
    if measured_on.corpus is not None:
        measured_on = replace(measured_on, corpus=_absolute(measured_on.corpus, *CORPORA))
    named = tuple((name, _absolute(corpus, *CORPORA)) for name, corpus in measured_on.named_texts)
    measured_on = replace(measured_on, named_texts=named)
    if measured_on.domains is not None:
        measured_on = replace(measured_on, domains=_absolute(measured_on.domains, PILE))
    if measured_on.frequencies is not None:
        measured_on = replace(measured_on, frequencies=_absolute(measured_on.frequencies, *COUNTS))
    return Task(
        name="",
        run=run.path.resolve(),
        config_digest=run.digest,
        location=run.manifest.config["location"],
        suite=suite,
        steps=(),
        reference=reference,
        measured_on=measured_on,
        options=job.options,
        cache_gb=job.cache_gb,
    )


def _absolute(source: str, *names: str) -> str:
    """A file's absolute path; one of the names, or an address on the Hub, stays."""
    return source if source in names or source.startswith(HUB_SCHEME) else str(Path(source).absolute())


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
