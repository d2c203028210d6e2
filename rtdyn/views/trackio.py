"""A run's numbers in trackio, whose database lies on this machine and needs no account. The store is the truth."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import redirect_stdout
from contextvars import Context
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rtdyn.blame import passes
from rtdyn.counted import counted
from rtdyn.errors import InputError, brief
from rtdyn.parquet import read_parquet
from rtdyn.store.run import Run, done_steps, locked, read_run, table_file
from rtdyn.views.wandb.rows import grouping, scalars, settings_of

PROJECT = "rtdyn"
ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables that make the client write to a server, whose steps it does not show."""


@dataclass
class TrackioView:
    """A run of trackio that mirrors the store, or nothing once something failed."""

    run: Run
    notice: Callable[[str], None]
    backend: Any = None
    sent: set[int] = field(default_factory=set)
    """Steps that the database has, or was given."""
    failed: bool = False

    def log_step(self, step: int) -> None:
        """Gives a stored step to the database, once."""
        if self.backend is not None and step not in self.sent:
            self._guard(lambda: self._log(step))

    def finish(self) -> None:
        """Waits until the database has all steps."""
        if self.backend is not None:
            self._guard(self._finish)

    def lies(self) -> str:
        """Where the numbers are, or nothing if they are not there."""
        return "" if self.failed else f"trackio has the numbers: `trackio show --project {PROJECT}` shows them"

    def _log(self, step: int) -> None:
        row = scalars(read_parquet(table_file(self.run, "metrics", step)))
        with redirect_stdout(StringIO()):
            self.backend.log({name: value for name, value in row.items() if name != "step"}, step=step)
        self.sent.add(step)

    def _finish(self) -> None:
        with redirect_stdout(StringIO()):
            self.backend.finish()
        if lacking := self.sent - steps_there(self.run):  # the client passes over what goes wrong
            raise RuntimeError(f"its database lacks {len(lacking)} of {counted(len(self.sent), 'step')}")

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # of whatever type; none of the client's own may cost the run
            if passes(error):
                raise
            self.backend, self.failed = None, True
            self.notice(
                f"trackio stopped: {brief(error).rstrip('.')}. Everything is in {self.run.path}; "
                f"`rtdyn sync --tracker trackio {self.run.path}` gives it what it lacks."
            )


def check_trackio() -> None:
    """Raises InputError where trackio is not installed, or is told to write elsewhere than on this machine."""
    try:
        import trackio  # noqa: F401 -- whether it is there is the question
    except ImportError:
        raise InputError("--tracker trackio needs trackio; install it with `pip install trackio`") from None
    for name in ELSEWHERE:
        if os.environ.get(name):
            raise InputError(f"rtdyn writes to trackio's database on this machine alone; unset {name}")


def start_trackio(run: Run, notice: Callable[[str], None]) -> TrackioView:
    """Begins or resumes the store's run in trackio and gives it the steps that it lacks. Raises as `check_trackio`."""
    check_trackio()
    view = TrackioView(run, notice)
    view._guard(lambda: _begin(view))
    for step in done_steps(run):
        view.log_step(step)
    return view


def _begin(view: TrackioView) -> None:
    import trackio

    manifest = view.run.manifest
    with redirect_stdout(StringIO()):
        # in a context of its own: the client would end a run that the process has open
        view.backend = Context().run(
            trackio.init,
            project=PROJECT,
            name=manifest.wandb_id,
            group=grouping(manifest).group,
            config=settings_of(manifest),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    view.sent = steps_there(view.run)


def steps_there(run: Run) -> set[int]:
    """The steps of a run that the database has."""
    from trackio.sqlite_storage import SQLiteStorage

    return {int(row["step"]) for row in SQLiteStorage.get_logs(PROJECT, run.manifest.wandb_id)}


def sync_trackio(path: Path, notice: Callable[[str], None]) -> None:
    """`rtdyn sync --tracker trackio`: gives trackio the steps that it lacks of the run at `path`.

    Raises InputError if there is no finished step, another process writes to the store, or the database lacks some.
    """
    run = read_run(path)
    steps = done_steps(run)
    if not steps:
        raise InputError(f"{path} holds no finished step yet; nothing to send")
    said: list[str] = []
    check_trackio()
    with locked(path):
        had = len(steps_there(run) & set(steps))
        view = start_trackio(run, said.append)
        view.finish()
    if view.failed:
        raise InputError(said[-1])
    notice(f"{len(steps) - had} of {counted(len(steps), 'step')} sent, {had} were there already")
    notice(view.lies())
