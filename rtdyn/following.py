"""A run of steps that come while it goes on: the job of `track` where nobody knows its steps beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from rtdyn.checkpoints.arriving import Arriving, arrivals_folder, gone_after, linked_steps
from rtdyn.checkpoints.polling import Watch
from rtdyn.errors import InputError, UsageError
from rtdyn.execute.driver import earlier_tasks
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import Run, done_steps, locked, open_run
from rtdyn.suites.steps import steps_so_far
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.follow_options import FollowOptions
from rtdyn.sweep.job import Job
from rtdyn.sweep.manifest import new_manifest, run_config
from rtdyn.sweep.sweep import device_here, prepare_sweep
from rtdyn.tracking import keep_settings, raise_given_up, record_checkpoints, run_here, say_end, say_plain, say_setup
from rtdyn.views.wandb.mirror import choose_mode, start_wandb


def follow(job: Job, arriving: Arriving, console: Console, results: Console | None = None) -> Run:
    """Analyses each step as it arrives, until the stream of them ends; returns the run.

    job: its `suite` and `steps` are passed over. results: where what came out is said; `console` by default. Steps
    that the run directory has are not analysed again. Raises InputError in one sentence if no step came, for a source
    that cannot be used, and at the end for steps that could not be analysed.
    """
    say = partial(say_plain, console)
    options = replace(job.options, device=device_here(job.options.device))
    steps = iter(arriving.stream.steps)
    first = next(steps, None)
    if first is None:
        raise InputError(f"no step of {arriving.suite.name} came that is whole and not stored yet; nothing is analysed")
    sweep = prepare_sweep(arriving.here, first, job.measured_on, options, say)
    sweep = replace(sweep, config=run_config(arriving.suite, sweep.evaluation, job.measured_on, options))
    suite = replace(arriving.suite, steps=(first,))
    manifest = new_manifest(suite, sweep.evaluation, sweep.config).replace(command=job.command)
    path = job.out if job.out is not None else Path("runs") / f"{arriving.suite.name}-{manifest.config_digest[:8]}"
    run = open_run(path, manifest)
    with locked(path):
        earlier_tasks(run, "serial", "")
        say_setup(console, arriving.suite, sweep.evaluation, run)
        keep_settings(job, run)
        stored, given_up = done_steps(run), dict[int, str]()
        view = start_wandb(run, choose_mode(job.wandb), say)
        stream = replace(arriving.stream, steps=_new(first, steps, stored, arriving, run, say))
        try:
            given_up = run_here(sweep, nullcontext(stream), None, run, view.log_step, console)
        finally:
            try:
                suite = replace(suite, steps=tuple(done_steps(run)) or suite.steps)
                run = Run(path, run.manifest.replace(asked=tuple(sorted({*suite.steps, *given_up}))))
                run = record_checkpoints(run, suite, _not_audited(), given_up)
            finally:
                view.finish()
    say_end(console if results is None else results, run)
    raise_given_up(given_up, len(given_up) + len(done_steps(run)), run)
    return run


def follow_folder(
    model: str,
    find: Callable[[], SuiteSpec],
    spec: str,
    job_of: Callable[[SuiteSpec], Job],
    how: FollowOptions,
    out: Path | None,
    console: Console,
    results: Console,
) -> Run:
    """Follows the folder `model`, whose steps `find` gives as they are now; returns the run.

    spec: which steps, as `steps_so_far` reads it. job_of: the job, once there is a suite. Raises as `follow`, and
    UsageError for what is no folder.
    """
    folder, suites, names = Path(model), list[SuiteSpec](), dict[int, str]()
    if not folder.is_dir():
        raise UsageError(f"--follow watches a folder, and there is none at {model}; make it, or correct the name")
    steps_so_far(spec, ())

    def look() -> Mapping[int, Path]:
        try:
            suite = find()
        except InputError:
            return {}  # there is no step yet
        suites[:] = [suite]
        chosen = {step: suite.revision_of(step) for step in steps_so_far(spec, suite.steps)}
        names.update(chosen)
        return {step: folder / name for step, name in chosen.items()}

    links = arrivals_folder(out or Path("runs") / folder.resolve().name)
    say = partial(say_plain, console)
    watch = Watch(look, folder, links, how.poll, how.until, how.idle, say)
    steps = gone_after(watch.steps(), links)
    say(f"following {folder}: a look every {how.poll:g} s; Ctrl-C ends it")
    first = next(steps, None)
    if first is None:
        raise InputError(f"no step of {folder} was whole before the time of --idle was over; nothing is analysed")
    suite = suites[0]
    return follow(job_of(suite), linked_steps(suite, links, chain([first], steps), names.__getitem__), console, results)


def _not_audited() -> dict[str, Any]:
    """The record of an audit that cannot be made: there is no whole run yet to hold a step against."""
    findings = ["not made, as the steps are analysed as they come; only registered defects are known"]
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return {"made": made, "steps": {}, "findings": findings, "passed_over": {}}


def _new(
    first: int,
    further: Iterator[int],
    stored: Mapping[int, CheckpointRecord],
    arriving: Arriving,
    run: Run,
    say: Callable[[str], None],
) -> Iterator[int]:
    """The arriving steps that are not stored. Raises InputError for a stored one that holds other weights now."""

    def is_new(step: int) -> bool:
        if step not in stored:
            return True
        if arriving.stream.take(step, lambda stage: None).digests != stored[step].digests:
            raise InputError(
                f"step {step} of {arriving.suite.location} is not what {run.path} was made from; give another --out"
            )
        say(f"step {step} is stored already")
        arriving.stream.release(step)
        return False

    if is_new(first):
        yield first
    yield from filter(is_new, further)
