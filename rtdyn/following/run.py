"""The job of `track` where nobody knows the steps beforehand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from rich.console import Console

from rtdyn.checkpoints.arriving import Arriving
from rtdyn.errors import InputError
from rtdyn.execute.driver import earlier_tasks
from rtdyn.following.as_they_come import AsTheyCome
from rtdyn.say_plain import say_plain
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import Run, done_steps, done_with, locked, open_run
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job
from rtdyn.sweep.manifest import new_manifest, run_config
from rtdyn.sweep.sweep import device_here, prepare_sweep
from rtdyn.tracking import keep_settings, raise_given_up, record_checkpoints, run_here, say_end, say_setup
from rtdyn.views.tracker import check_tracker, start_tracker

Find = Callable[..., SuiteSpec]
"""The suite as it is now. Given what is told of them, names that a user's pattern reads wrongly are passed over;
without it they raise UsageError."""


def follow(job: Job, arriving: Arriving, console: Console, results: Console | None = None) -> Run:
    """Analyses each step as it arrives, until the stream of them ends; returns the run.

    job: its `suite` and `steps` are passed over. results: where what came out is said; `console` by default. Steps
    that the run directory has are not analysed again. Raises InputError in one sentence if no step came and for a
    source that cannot be used. Raises it at the end for steps that could not be analysed.
    """
    say = partial(say_plain, console)
    check_tracker(job)
    options = replace(job.options, device=device_here(job.options.device))
    steps = iter(arriving.stream.steps)
    first = next(steps, None)
    if first is None:
        raise InputError("no whole step came before the end; nothing is analysed")
    sweep = prepare_sweep(arriving.here, first, job.measured_on, options, say)
    suite = _with_steps(arriving.suite(), (first,))
    sweep = replace(
        sweep,
        config=run_config(arriving.suite(), sweep.evaluation, job.measured_on, options),
        tokens_seen=lambda step: arriving.suite().tokens_seen(step),
    )
    manifest = new_manifest(suite, sweep.evaluation, sweep.config).replace(command=job.command)
    path = job.out if job.out is not None else Path("runs") / f"{suite.name}-{manifest.config_digest[:8]}"
    run = open_run(path, manifest)
    with locked(path):
        earlier_tasks(run, "serial", "")
        say_setup(console, suite, sweep.evaluation, run, job.measured_on.corpus)
        keep_settings(job, run)
        stored, given_up = done_steps(run), dict[int, str]()
        whole = done_with(run, job.options.analyses)
        audit = AsTheyCome(run, say)
        audit.know(stored)
        view = start_tracker(run, job, say)

        def log(step: int) -> None:
            audit.hold(step)
            view.log_step(step)

        stream = replace(arriving.stream, steps=_new(first, steps, stored, whole, arriving, say))
        try:
            given_up = run_here(sweep, nullcontext(stream), None, run, log, console)
        finally:
            try:
                suite = _with_steps(suite, tuple(done_steps(run)) or suite.steps)
                asked = {*run.manifest.asked, *suite.steps, *given_up}
                run = Run(path, run.manifest.replace(asked=tuple(sorted(asked))))
                run = record_checkpoints(run, suite, audit.record(suite, done_steps(run)), given_up)
            finally:
                view.finish()
        if where := view.lies():
            say(where)
    say_end(console if results is None else results, run)
    raise_given_up(given_up, len(given_up) + len(done_steps(run)), run)
    return run


def _with_steps(suite: SuiteSpec, steps: tuple[int, ...]) -> SuiteSpec:
    """The suite with other steps, whose places and tokens are asked of the suite as it is when they come."""
    return replace(suite, steps=steps, names=(), tokens=())


def check_series(before: SuiteSpec | None, now: SuiteSpec) -> None:
    """Raises InputError where the steps that are found now are another series than those before.

    Of several series in one place that with most steps is taken, so that another may come to be the longest.
    """
    if before is not None and before.series != now.series:
        raise InputError(
            f"{now.location} holds another series of steps now, {now.series} in place of {before.series}; "
            "name the one that is meant by --revision-pattern"
        )


def _new(
    first: int,
    further: Iterator[int],
    stored: Mapping[int, CheckpointRecord],
    whole: Collection[int],
    arriving: Arriving,
    say: Callable[[str], None],
) -> Iterator[int]:
    """The arriving steps that are not stored, or lack analyses; whole: the stored ones that lack none."""

    def is_new(step: int) -> bool:
        if step not in stored:
            return True
        arriving.check_stored(step, stored[step])
        if step not in whole:
            return True
        say(f"step {step} is stored already")
        arriving.stream.release(step)
        return False

    return filter(is_new, chain([first], further))
