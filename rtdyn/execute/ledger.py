"""What driver and workers tell one another: small files in RUN/tasks, each written by one of them and whole.

`given.json` is the driver's: which tasks a cluster has. A worker leaves a `try` for each step that it begins and takes
it back once the step is stored. So whatever kills it leaves the try behind; the driver that finds a step's third one
gives it up. `seconds` are a stored step's stages, until the driver has them in the log. The folder is there from the
first task until a command ends by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rtdyn.blame import reading
from rtdyn.errors import InputError
from rtdyn.execute.engine import LOGS
from rtdyn.files import clear_aside, write_json
from rtdyn.store.run import TASKS

TRIES = 3
"""Workers that a step may cost before it is given up."""
CANCELLED = 10
"""Tasks that may be cancelled while a step is in work, before it is given up."""
_GIVEN = "given.json"


@dataclass(frozen=True)
class OpenTasks:
    """The tasks that a cluster was given and that are not known to have ended."""

    executor: str
    place: str
    """The cluster, as one would name it to a user."""
    outlives: bool
    """Whether they go on when their driver dies."""
    steps: Mapping[str, tuple[int, ...]]
    """By the task's name."""


@dataclass(frozen=True)
class Try:
    """A step that a worker began and did not store."""

    file: Path
    step: int
    task: str
    host: str
    sentence: str | None
    """The worker's own last one; None while it works, or if it died without a word."""
    final: bool
    """Whether another worker would come to the same."""
    ends_run: bool = False
    """Whether every other step would come to the same too."""


def read_open_tasks(run: Path) -> OpenTasks | None:
    """What an earlier driver noted, None if it ended by itself. Raises InputError if it cannot be read."""
    file = run / TASKS / _GIVEN
    if not file.is_file():
        return None
    try:
        with reading(str(file)):
            noted = json.loads(file.read_text(encoding="utf-8"))
        steps = {str(name): tuple(map(int, steps)) for name, steps in noted["tasks"].items()}
        return OpenTasks(str(noted["executor"]), str(noted["place"]), bool(noted["outlives"]), steps)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read; delete {run / TASKS} once none of its tasks runs any more") from error


def write_open_tasks(run: Path, open_tasks: OpenTasks) -> None:
    """Notes the tasks, before a cluster is given them."""
    (run / TASKS).mkdir(exist_ok=True)
    tasks = {name: list(steps) for name, steps in open_tasks.steps.items()}
    noted = {
        "executor": open_tasks.executor,
        "place": open_tasks.place,
        "outlives": open_tasks.outlives,
        "tasks": tasks,
    }
    write_json(run / TASKS / _GIVEN, noted)


def begin_try(run: Path, step: int, task: str) -> Try:
    """A worker begins a step. Raises InputError if the ledger is not there: nobody waits for the worker any more."""
    file = run / TASKS / f"step={step:06d}.{uuid.uuid4().hex}.try"
    attempt = Try(file, step, task, socket.gethostname(), None, False)
    _write(attempt)
    return attempt


def end_try(attempt: Try, sentence: str | None, final: bool = False, ends_run: bool = False) -> None:
    """A step's worker, or the driver for it, says what became of a try; it is taken back if there is no sentence."""
    if sentence is None:
        attempt.file.unlink(missing_ok=True)
    else:
        _write(Try(attempt.file, attempt.step, attempt.task, attempt.host, sentence, final, ends_run))


def _write(attempt: Try) -> None:
    if not attempt.file.parent.is_dir():
        raise InputError(f"{attempt.file.parent} is not there: the run has ended, or this machine does not see it")
    record = {
        "task": attempt.task,
        "host": attempt.host,
        "pid": os.getpid(),
        "sentence": attempt.sentence,
        "final": attempt.final,
        "ends_run": attempt.ends_run,
    }
    write_json(attempt.file, record)


def leave(run: Path, task: str, step: int | None) -> None:
    """A worker was told to stop, with this step in work: that it stores no more is not its steps' fault."""
    write_json(run / TASKS / f"{task}.left", {"step": step})


def has_left(run: Path, task: str) -> bool:
    """Whether the task's worker was told to stop."""
    return (run / TASKS / f"{task}.left").is_file()


def left_at(run: Path, task: str) -> int | None:
    """The step that a worker had in work when it was told to stop."""
    step: int | None = json.loads((run / TASKS / f"{task}.left").read_text(encoding="utf-8"))["step"]
    return step


def come_back(run: Path, task: str) -> None:
    """The task that was told to stop was requeued and is at work once more."""
    (run / TASKS / f"{task}.left").unlink(missing_ok=True)


def note_cancelled(run: Path, step: int, task: str) -> None:
    """A task that had this step in work, or no step yet and this one first, was told to stop and did not come back."""
    (run / TASKS / f"step={step:06d}.{task}.cancelled").touch()


def cancellations(run: Path) -> Counter[int]:
    """How many tasks were cancelled so, by step."""
    return Counter(_step_of(file) for file in (run / TASKS).glob("step=*.cancelled"))


def tries(run: Path) -> dict[int, list[Try]]:
    """All tries that were not taken back, by step, the earliest first."""
    found: dict[int, list[tuple[int, Try]]] = {}
    for file in (run / TASKS).glob("step=*.try"):
        try:
            record, at = json.loads(file.read_text(encoding="utf-8")), file.stat().st_mtime_ns
        except FileNotFoundError:  # taken back just now
            continue
        step = _step_of(file)
        kind = record["final"], record.get("ends_run", False)  # which an older worker does not write
        attempt = Try(file, step, record["task"], record["host"], record["sentence"], *kind)
        found.setdefault(step, []).append((at, attempt))
    return {step: [attempt for _, attempt in sorted(known, key=lambda k: k[0])] for step, known in found.items()}


def given_up(attempts: Collection[Try]) -> bool:
    """Whether a step with these tries is not to be tried again."""
    return len(attempts) >= TRIES or any(attempt.final for attempt in attempts)


def write_seconds(run: Path, step: int, seconds: Mapping[str, float]) -> None:
    """A worker notes how long the stages of a stored step took."""
    write_json(run / TASKS / f"step={step:06d}.seconds", dict(seconds))


def read_seconds(run: Path) -> dict[int, dict[str, float]]:
    """What workers noted, by step, until it is forgotten."""
    files = (run / TASKS).glob("step=*.seconds")
    return {_step_of(file): json.loads(file.read_text(encoding="utf-8")) for file in files}


def forget_seconds(run: Path, steps: Iterable[int]) -> None:
    """These are in the log."""
    for step in steps:
        (run / TASKS / f"step={step:06d}.seconds").unlink(missing_ok=True)


def close_ledger(run: Path, keep_logs: bool) -> None:
    """No task runs any more: the folder goes, and so do the unfinished files of killed workers."""
    clear_aside(run)
    shutil.rmtree(run / TASKS, ignore_errors=True)
    if not keep_logs:
        shutil.rmtree(run / LOGS, ignore_errors=True)


def _step_of(file: Path) -> int:
    return int(file.name.removeprefix("step=").partition(".")[0])
