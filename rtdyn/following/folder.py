"""Following a folder that a trainer writes to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console

from rtdyn.checkpoints.arriving import arrivals_folder, gone_after, link_step, linked_steps, step_link
from rtdyn.checkpoints.polling import Watch
from rtdyn.checkpoints.whole import State, whole_state
from rtdyn.errors import InputError, RtdynError
from rtdyn.following.run import Find, check_series, follow
from rtdyn.following.say_once import SayOnce
from rtdyn.say_plain import say_plain
from rtdyn.store.run import Run
from rtdyn.suites.steps import steps_so_far
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.follow_options import FollowOptions
from rtdyn.sweep.job import Job


@dataclass
class _Source:
    """The folder, as its last look found it."""

    folder: Path
    find: Find
    spec: str
    links: Path
    say_once: SayOnce
    outage: SayOnce
    """Says why the folder cannot be read."""
    suite: SuiteSpec | None = None
    """None before there was a step."""

    def now(self) -> SuiteSpec:
        assert self.suite is not None
        return self.suite

    def look(self, passed: Collection[int]) -> dict[int, State | None]:
        try:
            found = self.find(lambda fault: self.say_once(f"a folder is passed over: {fault}"))
        except RtdynError as error:
            if self.suite is None:
                if self.folder.is_dir() and any(child.is_dir() for child in self.folder.iterdir()):
                    self.say_once(f"no step is found yet: {error}")
                return {}
            self.outage(f"the folder cannot be read, and is looked at again: {error}")
            found = self.suite
        else:
            self.outage.over()
        check_series(self.suite, found)
        self.suite = found
        steps = steps_so_far(self.spec, self.suite.steps)
        return {step: whole_state(self._of(step)) for step in steps if step not in passed}

    def take(self, step: int, state: Hashable) -> bool:
        """Links the step's files. Raises InputError if they can be neither linked nor copied."""
        link = step_link(self.links, step)
        try:
            link_step(self._of(step), self.folder, link, copy=True)
        except (FileNotFoundError, InputError):
            return False
        except OSError as error:
            what = f"the files of step {step} cannot be kept ({error})"
            raise InputError(f"{what}; make room, or give another --out") from error
        taken, seen = whole_state(link), state if isinstance(state, frozenset) else frozenset()
        names = {name for name, _, _ in seen}  # those of a tokenizer beside the steps are not among them
        if taken is not None and {file for file in taken if file[0] in names} <= seen:
            return True
        shutil.rmtree(link)
        return False

    def _of(self, step: int) -> Path:
        return self.folder / self.now().revision_of(step)


def follow_folder(
    folder: Path,
    find: Find,
    spec: str,
    job_of: Callable[[SuiteSpec], Job],
    how: FollowOptions,
    out: Path | None,
    console: Console,
    results: Console,
) -> Run:
    """Follows a folder, whose steps `find` gives as they are now; returns the run.

    spec: which steps, as `steps_so_far` reads it. job_of: the job, once there is a suite. Raises as `follow`.
    """
    say = partial(say_plain, console)
    links = arrivals_folder(out or Path("runs") / folder.resolve().name)
    source = _Source(folder, find, spec, links, SayOnce(say), SayOnce(say))
    steps = gone_after(Watch(source.look, source.take, how.poll, how.until, how.idle, say).steps(), links)
    say(f"following {folder}: a look every {how.poll:g} s; Ctrl-C ends it")
    first = next(steps, None)
    if first is None:
        raise InputError(f"no step of {folder} was whole before the time of --idle was over; nothing is analysed")
    return follow(job_of(source.now()), linked_steps(source.now, links, chain([first], steps)), console, results)
