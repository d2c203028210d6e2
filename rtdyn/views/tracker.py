"""Which program shows a run's numbers as they come: Weights & Biases or trackio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rtdyn.errors import UsageError
from rtdyn.names import TRACKIO
from rtdyn.store.run import Run
from rtdyn.sweep.job import Job
from rtdyn.views.trackio import check_trackio, start_trackio
from rtdyn.views.wandb.mirror import choose_mode, start_wandb


class Tracker(Protocol):
    """A run as another program shows it. Nothing that fails in it ends the run."""

    def log_step(self, step: int) -> None:
        """Takes a stored step, once."""

    def finish(self) -> None:
        """Takes what is said of the whole run, and waits until all is there."""

    def lies(self) -> str:
        """What a user should know of where the numbers are; nothing where that is plain."""


def check_tracker(job: Job) -> None:
    """Raises InputError where the job's tracker cannot be used, UsageError for what is asked of the other one."""
    if job.tracker == TRACKIO:
        if job.wandb in ("online", "offline"):
            raise UsageError(f"--tracker trackio takes the place of W&B; leave out --wandb {job.wandb}")
        refuse_report(job.no_report_upload)
        check_trackio()


def refuse_report(no_report_upload: bool) -> None:
    """Raises UsageError where trackio is told to leave out a report that it never gets."""
    if no_report_upload:
        raise UsageError("trackio gets no figures and no page; leave out --no-report-upload")


def start_tracker(run: Run, job: Job, say: Callable[[str], None]) -> Tracker:
    """Begins or resumes the run in the job's tracker, with the steps that it lacks."""
    if job.tracker == TRACKIO:
        return start_trackio(run, say)
    return start_wandb(run, choose_mode(job.wandb), say, not job.no_report_upload)
