"""What a sweep shows while it runs: a line for each step that is stored, and on a terminal a bar below them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from rtdyn.cost.forecast import Forecast
from rtdyn.say_plain import say_plain


@dataclass
class Reporter:
    """Told what happens; prints it as the console allows."""

    console: Console
    total: int | None
    """Steps to be stored; None where nobody knows."""
    forecast: Forecast
    bar: Progress | None = None
    task: TaskID | None = None
    step: int = 0
    position: str = ""
    began: float = field(default_factory=time.perf_counter)
    """When the sweep began; the next is when the work on this step did."""
    started: float = field(default_factory=time.perf_counter)
    ended: float = field(default_factory=time.perf_counter)
    """When the last step ended, or the sweep began."""
    over: int = 0
    """Steps that are stored or passed over."""
    doing: tuple[str, float] | None = None
    """The stage, and when it began."""

    def begin(self, step: int, number: int, total: int | None) -> None:
        """A step's work begins: its checkpoint is being fetched. total: None where nobody knows."""
        position = f"{number}" if total is None else f"{number}/{total}"
        self.step, self.position, self.started = step, position, time.perf_counter()
        self.stage("fetch")

    def stage(self, name: str) -> None:
        """The current step enters a stage."""
        now = time.perf_counter()
        if self.doing is None or self.doing[0] != name:
            if self.doing is not None and not self.forecast.steps:
                before, since = self.doing
                self.forecast.ended[before] = now - since
            self.doing = name, now
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=f"step {self.step}", stage=name)

    def end(self, summary: str, seconds: float | None = None) -> None:
        """The current step is stored, after so many seconds of work; by default since it began."""
        now = time.perf_counter()
        self.forecast.steps += 1
        self.forecast.seconds = now - self.began
        self._advance(now)
        seconds = now - self.started if seconds is None else seconds
        left = self.left()
        remaining = "" if left is None or self.over == self.total else f", {in_words(left)} left"
        self.say(f"[{self.position}] step {self.step}: {summary} ({seconds:.1f} s{remaining})")

    def pass_over(self, step: int, reason: str) -> None:
        """A step will not be stored."""
        self._advance(time.perf_counter())
        self.say(f"step {step} is passed over: {reason}")

    def left(self) -> float | None:
        """Seconds until all steps are stored, as far as can be told; None if it cannot."""
        if self.total is None:
            return None
        return self.forecast.left(self.total - self.over, time.perf_counter() - self.ended)

    def say(self, text: str) -> None:
        """One line of plain text."""
        say_plain(self.console, text)

    def _advance(self, now: float) -> None:
        self.ended, self.over, self.doing = now, self.over + 1, None
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task)


class _Left(ProgressColumn):
    """Time left, as the reporter has it now."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True, min_width=len("100 h 59 min left")))
        self.reporter: Reporter | None = None

    def render(self, task: Task) -> Text:
        left = None if self.reporter is None else self.reporter.left()
        return Text("" if left is None else f"{in_words(left)} left")


def in_words(seconds: float) -> str:
    """A duration as one says it: `40 s`, `12 min`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress(
    console: Console, suite: str, steps: int | None, expected: Mapping[str, float] | None = None
) -> Iterator[Reporter]:
    """A reporter for `steps` steps of a suite, None where nobody knows; a live bar if the console is a terminal.

    expected: seconds of each stage of a step, which the time left is told by until the first step is stored.
    """
    forecast = Forecast(expected or {})
    if not console.is_terminal:
        yield Reporter(console, steps, forecast)
        return
    left = _Left()
    whole, cut = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        TextColumn(escape(suite), table_column=Column(no_wrap=True, overflow="ellipsis")),
        TextColumn("{task.description}", table_column=whole),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[stage]}", table_column=cut, markup=False),
        left,
    )
    with Progress(*columns, console=console, expand=True) as bar:
        reporter = Reporter(console, steps, forecast, bar, bar.add_task("", total=steps, stage=""))
        left.reporter = reporter
        yield reporter
