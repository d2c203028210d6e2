"""What a sweep shows while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass
class Reporter:
    """Told what happens; prints it as the console allows."""

    console: Console
    bar: Progress | None
    task: TaskID | None = None
    step: int = 0
    position: str = ""
    started: float = field(default_factory=time.perf_counter)

    def begin(self, step: int, number: int, total: int | None) -> None:
        """A step's work begins: its checkpoint is being fetched. total: None where nobody knows."""
        position = f"{number}" if total is None else f"{number}/{total}"
        self.step, self.position, self.started = step, position, time.perf_counter()
        self.stage("fetch")

    def stage(self, name: str) -> None:
        """The current step enters a stage."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=f"step {self.step}", stage=name)

    def end(self, summary: str, seconds: float | None = None) -> None:
        """The current step is stored, after so many seconds of work; by default since it began."""
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task)
        else:
            seconds = time.perf_counter() - self.started if seconds is None else seconds
            self.say(f"[{self.position}] step {self.step}: {summary} ({seconds:.1f} s)")

    def pass_over(self, step: int, reason: str) -> None:
        """A step will not be stored."""
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task)
        self.say(f"step {step} is passed over: {reason}")

    def say(self, text: str) -> None:
        """One line of plain text."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(console: Console, suite: str, steps: int | None) -> Iterator[Reporter]:
    """A reporter for so many steps of a suite, None where nobody knows; a live bar if the console is a terminal."""
    if not console.is_terminal:
        yield Reporter(console, None)
        return
    columns = (
        TextColumn(escape(suite)),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        reporter = Reporter(console, bar)
        reporter.task = bar.add_task("", total=steps, stage="")
        yield reporter
