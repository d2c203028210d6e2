"""Watches a run directory while a cluster's workers fill it: gives tasks, takes note of steps, gives tasks again.

It holds nothing that the run directory does not: killed and started again, it adopts the tasks that still run.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from rtdyn.counted import counted
from rtdyn.errors import InputError, ParityError
from rtdyn.execute.engine import Engine, SilentError
from rtdyn.execute.ledger import (
    CANCELLED,
    OpenTasks,
    begin_try,
    cancellations,
    close_ledger,
    end_try,
    forget_seconds,
    given_up,
    has_left,
    left_at,
    note_cancelled,
    read_open_tasks,
    read_seconds,
    tries,
    write_open_tasks,
)
from rtdyn.execute.task import Task, grouped
from rtdyn.store.run import Run, lacking, step_record
from rtdyn.sweep.cluster_options import ClusterOptions

LOOK = 0.5
"""Seconds between two looks at the run directory."""
ASK, ASK_AT_MOST = 1.0, 15.0
"""Seconds between two questions to the cluster, which grow while nothing happens."""
ENDING = 20.0
"""Seconds that tasks have to end by themselves once all their steps are stored."""
SILENT = "its worker ended without a word"

OnStored = Callable[[int, Mapping[str, float] | None], None]
"""Told a step once it is stored, with the seconds of its stages if they are known."""


def open_engine(options: ClusterOptions, run: Path, say: Callable[[str], None]) -> Engine:
    """The cluster that the options name. Raises InputError if it cannot be had."""
    if options.executor == "slurm":
        from rtdyn.execute.slurm import slurm

        return slurm(options, run)
    from rtdyn.execute.ray import ray

    return ray(options, run, say)


def earlier_tasks(run: Run, executor: str, place: str) -> OpenTasks | None:
    """The tasks of an earlier command that may still run. Raises InputError if another cluster has them."""
    earlier = read_open_tasks(run.path)
    if earlier is None or not earlier.outlives:
        return earlier
    if (earlier.executor, earlier.place) != (executor, place):
        raise InputError(
            f"{run.path} holds tasks that {earlier.place} was given; go on with --executor {earlier.executor} there, "
            f"or delete {run.path / 'tasks'} once none of them runs"
        )
    return earlier


@dataclass
class Driver:
    """One command's watch over a run."""

    engine: Engine
    """Who is given the tasks."""
    run: Run
    """Whose directory the workers fill."""
    units: Sequence[tuple[int, ...]]
    """Steps to be had, those of the same weights together."""
    template: Task
    """A task of this run, but for its name and steps."""
    analyses_per_task: int
    """Units of steps in each task."""
    on_stored: OnStored
    on_look: Callable[[int, int], None]
    """Told how many tasks there are, and how many of them are at work."""
    say: Callable[[str], None]
    """Told what a user should know."""
    open_tasks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Steps of each task that is not known to have ended, by its name."""
    waiting: set[int] = field(default_factory=set)
    """Steps neither stored nor given up."""
    failed: dict[int, str] = field(default_factory=dict)
    """Steps given up, each with the reason."""
    silent: bool = False
    """Whether the cluster was last heard to be silent, or to refuse a task."""

    def drive(self) -> dict[int, str]:
        """Returns once every step is stored or given up; the latter with the last sentence of their workers.

        On Ctrl-C all tasks are withdrawn. Raises InputError if the cluster takes no task and has none, and ParityError,
        all tasks withdrawn, once a worker met one.
        """
        self.waiting = {step for unit in self.units for step in unit}
        self._adopt()
        every, asked = ASK, -ASK_AT_MOST
        try:
            while True:
                moved = self._collect()
                if moved or time.monotonic() - asked >= every:
                    moved |= self._settle()
                    moved |= self._collect()
                    self._submit()
                    every, asked = (ASK if moved else min(1.5 * every, ASK_AT_MOST)), time.monotonic()
                if not self.waiting:
                    break
                time.sleep(LOOK)
        except (InputError, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt | ParityError):
                self._withdraw()
            self._close()
            raise
        self._wait_for_the_end()
        self._close()
        return self.failed

    def _close(self) -> None:
        if not self.open_tasks:
            close_ledger(self.run.path, keep_logs=bool(self.waiting or self.failed))

    def _adopt(self) -> None:
        earlier = earlier_tasks(self.run, self.engine.executor, self.engine.place)
        if earlier is None:
            return
        if earlier.outlives:
            self.open_tasks = dict(earlier.steps)
            return
        for attempt in chain(*tries(self.run.path).values()):
            if attempt.task in earlier.steps and attempt.sentence is None:
                end_try(attempt, None)  # it ended with the command before, through no fault of the step

    def _collect(self) -> bool:
        """Takes note of stored steps; whether there were any."""
        seconds, in_work = read_seconds(self.run.path), self._in_work()
        arrived = []
        for step in sorted(self.waiting):
            if not self._is_stored(step):
                continue
            record = step_record(self.run, step)
            if record is not None and (step in seconds or record.copy_of is not None or step not in in_work):
                arrived.append(step)
        for step in arrived:
            self.waiting.discard(step)
            self.on_stored(step, seconds.get(step))
        forget_seconds(self.run.path, arrived)
        return bool(arrived)

    def _is_stored(self, step: int) -> bool:
        """Whether the step is stored with all analyses of the tasks."""
        if step_record(self.run, step) is None:
            return False
        return not lacking(self.run, step, self.template.options.analyses)

    def _in_work(self) -> set[int]:
        return {step for steps in self.open_tasks.values() for step in steps}

    def _settle(self) -> bool:
        """Asks what became of the tasks and takes note of tries and steps given up; whether any task ended."""
        try:
            alive = set(self.engine.alive(self.open_tasks)) if self.open_tasks else set()
        except SilentError as error:
            self._say_silence(f"{self.engine.place} does not answer ({error}); asking again")
            return False
        self.silent = False
        ended = [name for name in self.open_tasks if name not in alive]
        for name in ended:
            self._take_note(name)
            del self.open_tasks[name]
        if ended:
            self._note_open_tasks()
        known, in_work = tries(self.run.path), self._in_work()
        for attempt in chain(*known.values()):
            if attempt.ends_run:
                raise ParityError(str(attempt.sentence))
        for step in sorted(self.waiting & known.keys()):
            final = [attempt for attempt in known[step] if attempt.final]
            if (final or step not in in_work) and given_up(known[step]) and not self._is_stored(step):
                sentence = (final or known[step])[-1].sentence or SILENT
                self._give_up(
                    step,
                    sentence if final else f"{counted(len(known[step]), 'worker')} failed, the last with: {sentence}",
                )
        for step, count in sorted(cancellations(self.run.path).items()):
            if count >= CANCELLED and step in self.waiting - in_work and not self._is_stored(step):
                self._give_up(step, f"{count} of its tasks were cancelled")
        at_work = {attempt.task for step in known for attempt in known[step] if attempt.sentence is None}
        self.on_look(len(self.open_tasks), len(at_work & self.open_tasks.keys()))
        return bool(ended)

    def _give_up(self, step: int, reason: str) -> None:
        self.waiting.discard(step)
        self.failed[step] = reason
        self.say(f"step {step} is given up: {reason}")

    def _take_note(self, name: str) -> None:
        """Fills in what a worker that has ended could not say: which steps it died with, or that it began none."""
        unstored = {s for s in self.open_tasks[name] if s in self.waiting and not self._is_stored(s)}
        theirs = [attempt for attempt in chain(*tries(self.run.path).values()) if attempt.task == name]
        left = has_left(self.run.path, name)
        printed = self.engine.last_words(name)
        sentence = SILENT if printed is None else f"its worker died; the last it printed: {printed}"
        for attempt in theirs:
            if attempt.sentence is None:
                end_try(attempt, sentence if attempt.step in unstored and not left else None)
        if unstored and left:
            at = left_at(self.run.path, name)
            first = at if at in unstored else next(s for s in self.open_tasks[name] if s in unstored)
            for step in next((unit for unit in self.units if first in unit), (first,)):
                note_cancelled(self.run.path, step, name)
        if unstored and not theirs and not left:
            for step in unstored:
                end_try(begin_try(self.run.path, step, name), sentence)

    def _submit(self) -> None:
        """Gives the cluster every step that is neither stored nor with a task, suspects in tasks of their own."""
        in_work, known = self._in_work(), tries(self.run.path).keys() | cancellations(self.run.path).keys()
        left = [tuple(step for step in unit if step in self.waiting - in_work) for unit in self.units]
        suspect = [unit for unit in left if unit and any(step in known for step in unit)]
        others = [unit for unit in left if unit and unit not in suspect]
        groups = sorted([*suspect, *grouped(others, self.analyses_per_task)])
        for begin in range(0, len(groups), self.engine.most_at_once):
            common = f"rtdyn-{self.run.digest[:8]}-{uuid.uuid4().hex[:8]}"
            batch = groups[begin : begin + self.engine.most_at_once]
            tasks = [replace(self.template, name=f"{common}.{i}", steps=steps) for i, steps in enumerate(batch)]
            self.open_tasks.update({task.name: task.steps for task in tasks})
            self._note_open_tasks()
            try:
                self.engine.submit(common, tasks)
            except InputError as error:
                for task in tasks:
                    del self.open_tasks[task.name]
                self._note_open_tasks()
                if not self.open_tasks:
                    raise
                self._say_silence(f"{error} (trying again)")
                return

    def _note_open_tasks(self) -> None:
        noted = OpenTasks(self.engine.executor, self.engine.place, self.engine.outlives, self.open_tasks)
        write_open_tasks(self.run.path, noted)

    def _say_silence(self, text: str) -> None:
        if not self.silent:
            self.say(text)
        self.silent = True

    def _wait_for_the_end(self) -> None:
        """Lets the last tasks end, and withdraws those that do not."""
        deadline = time.monotonic() + ENDING
        while self.open_tasks and time.monotonic() < deadline:
            try:
                alive = self.engine.alive(self.open_tasks)
            except SilentError:
                alive = list(self.open_tasks)
            self.open_tasks = {name: self.open_tasks[name] for name in alive}
            time.sleep(LOOK if self.open_tasks else 0)
        if self.open_tasks:
            self._withdraw()

    def _withdraw(self) -> None:
        try:
            self.engine.withdraw(self.open_tasks)
        except SilentError as error:
            self.say(
                f"{self.engine.place} does not answer ({error}): {counted(len(self.open_tasks), 'task')} may still run"
            )
        else:
            self.open_tasks.clear()
