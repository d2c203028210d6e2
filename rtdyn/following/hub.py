"""Following a repository on the Hub that a trainer pushes its steps to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from rich.console import Console

from rtdyn.checkpoints.arriving import Arriving
from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.checkpoints.fetch_plan import StepPlan, plan_sweep
from rtdyn.checkpoints.polling import Watch
from rtdyn.checkpoints.stream import Stream, Tell, open_stream
from rtdyn.errors import InputError, UsageError
from rtdyn.following.run import Find, check_series, follow
from rtdyn.following.say_once import SayOnce
from rtdyn.hub.listings import hub_refs
from rtdyn.hub.ranges import Transfer
from rtdyn.names import WEIGHTS_ONLY
from rtdyn.say_plain import say_plain
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import Run
from rtdyn.suites.steps import steps_so_far
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.follow_options import FollowOptions
from rtdyn.sweep.job import Job


@dataclass
class _Source:
    """The repository, as its last look found it, and the step that is held."""

    find: Find
    spec: str
    suite: SuiteSpec
    cache_gb: float
    weights_only: bool
    say_once: SayOnce
    outage: SayOnce
    """Says why a look finds nothing."""
    whole: dict[int, str] = field(default_factory=dict)
    """The commit of each step that was found whole twice: it holds what it holds for good."""
    before: dict[int, str | None] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)

    def now(self) -> SuiteSpec:
        return self.suite

    def look(self, passed: Collection[int]) -> dict[int, str | None]:
        """The commit of each step, None of one that lacks a file; the last look's where the Hub cannot be asked."""
        try:
            now = self.find(lambda fault: self.say_once(f"a name is passed over: {fault}"))
            # steps that were found are there; those of a schedule may be still to come
            there = None if now.names else set(hub_refs(now.hub_repo))
        except InputError as error:
            return self._as_before(passed, f"the Hub gives no answer and is asked again: {error}")
        except UsageError as error:
            return self._as_before(passed, f"the names on the Hub cannot be read, and are looked at again: {error}")
        self.outage.over()
        check_series(self.suite, now)
        self.suite = now
        steps = steps_so_far(self.spec, self.suite.steps)
        steps = tuple(s for s in steps if there is None or self.suite.revision_of(s) in there)
        found = self._commits([s for s in steps if s not in passed and s not in self.whole])
        self.whole |= {s: commit for s, commit in found.items() if commit is not None and self.before.get(s) == commit}
        self.before = found | {s: self.whole[s] for s in steps if s in self.whole and s not in passed}
        return self.before

    def _as_before(self, passed: Collection[int], why: str) -> dict[int, str | None]:
        self.outage(why)
        return {step: commit for step, commit in self.before.items() if step not in passed}

    def _commits(self, steps: list[int]) -> dict[int, str | None]:
        if not steps:
            return {}
        plan = plan_sweep(self.suite, steps, {}, self.weights_only, Transfer())
        commits: dict[int, str | None] = {r.step: r.commit for repeats in plan.repeats.values() for r in repeats}
        for step, outcome in zip(plan.numbers, plan.steps, strict=True):
            commits[step] = outcome.revision.commit if isinstance(outcome, StepPlan) else None
            if isinstance(outcome, InputError):
                self.say_once(f"step {step} cannot be had yet: {outcome}")
        return commits

    def fetch(self, step: int, tell: Tell) -> Checkpoint:
        """The step's checkpoint, downloaded and verified, which stays until it is released."""
        opened = open_stream(self.suite, [step], {}, self.cache_gb, self.weights_only, self.say_once.say)
        return self.held.enter_context(opened).take(step, tell)

    def release(self, step: int) -> None:
        self.held.close()

    def check_stored(self, step: int, record: CheckpointRecord) -> None:
        """Says it where a stored step is another commit now; its tables stay."""
        if self.before.get(step) != record.commit:
            self.say_once(f"step {step} is another on the Hub now; its tables stay (another --out analyses it anew)")


def follow_hub(
    find: Find,
    spec: str,
    job_of: Callable[[SuiteSpec], Job],
    how: FollowOptions,
    console: Console,
    results: Console,
) -> Run:
    """Follows a suite on the Hub, whose steps `find` gives as they are now; returns the run.

    spec: which steps, as `steps_so_far` reads it. A step is taken when two looks found all its files in one commit.
    Raises as `follow`.
    """
    say = partial(say_plain, console)
    suite = find()
    job = job_of(suite)
    weights_only = set(job.options.analyses) <= set(WEIGHTS_ONLY)
    source = _Source(find, spec, suite, job.cache_gb, weights_only, SayOnce(say), SayOnce(say))

    def take(step: int, commit: Hashable) -> bool:
        return True  # a commit stays

    steps = Watch(source.look, take, how.poll, how.until, how.idle, say).steps()
    say(f"following {suite.location}: a look every {how.poll:g} s; Ctrl-C ends it")
    first = next(steps, None)
    if first is None:
        raise InputError(f"no step of {suite.location} was whole before the time of --idle was over")
    stream = Stream(chain([first], steps), source.fetch, source.release)
    with source.held:
        arriving = Arriving(source.now, source.now(), stream, source.check_stored)
        return follow(job_of(source.now()), arriving, console, results)
