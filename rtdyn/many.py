"""Many suites in one command: one after another, a run directory each, and one W&B group for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from rtdyn.errors import IncompleteError, InputError, RtdynError
from rtdyn.say_plain import say_plain
from rtdyn.store.run import MANIFEST, Run, config_digest, read_run
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job
from rtdyn.sweep.paper import DESIGNS, PAPER

Track = Callable[[Job, Console], Run]
"""Tracks one suite."""
_HOW = ("memory_gib", "stream_layers", "device", "task_memory_gib")
"""Settings of how a run is made, not of what."""


@dataclass(frozen=True)
class Outcome:
    """What became of one suite."""

    label: str
    run: Run | None
    """None if it failed before it had one."""
    failure: str | None
    """Why, in one sentence."""


def labels(suites: Sequence[SuiteSpec]) -> list[str]:
    """A name for each suite that no other has: its own, or where folders are called alike, with those above them."""
    depth = [1] * len(suites)
    while True:
        named = [
            s.name if d == 1 or s.path is None else "-".join(part.strip("/") for part in s.path.parts[-d:])
            for s, d in zip(suites, depth, strict=True)
        ]
        times = Counter(named)
        longer = [
            d + 1 if times[name] > 1 and s.path is not None and d < len(s.path.parts) else d
            for s, d, name in zip(suites, depth, named, strict=True)
        ]
        if longer == depth:
            return named
        depth = longer


def job_labels(jobs: Sequence[Job]) -> list[str]:
    """A name for each job that no other has: its suite's, with the design where each suite is measured by two."""
    names = labels([job.suite for job in jobs if job.design != PAPER])
    if len(names) == len(jobs):
        return names
    return [f"{name}-{design}" for name in names for design in DESIGNS]


def group_of(jobs: Sequence[Job]) -> str:
    """The W&B group of a command over several suites: what their names begin with alike, and a digest of its settings.

    The same command goes into the same group again, and so does one with further suites of that beginning.
    """
    every = {**asdict(jobs[0].measured_on), **asdict(jobs[0].options)}
    settings = {name: value for name, value in every.items() if name not in _HOW}
    columns = zip(*(job.suite.name.split("-") for job in jobs), strict=False)
    parts = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    # W&B takes groups of up to 128 characters
    return f"{'-'.join(parts)[:100] or 'suites'}-{config_digest(settings)[:8]}"


def track_many(jobs: Sequence[Job], track: Track, out: Path | None, console: Console) -> list[Outcome]:
    """Tracks each job's suite, in one W&B group; one that cannot be used is said and the next begins.

    out: the folder of the run directories, each called as `job_labels` has it. Raises InputError if it is a run itself.
    """
    if out is not None and (out / MANIFEST).is_file():
        raise InputError(
            f"{out} is a run directory; of a command over several runs --out is the folder of them all, give another"
        )
    outcomes, group = [], group_of(jobs)
    for number, (label, job) in enumerate(zip(job_labels(jobs), jobs, strict=True), start=1):
        say_plain(console, f"{'run' if job.design else 'suite'} {number} of {len(jobs)}: {label}")
        own = replace(job, out=None if out is None else out / label, group=group)
        try:
            outcome = outcome_of(label, partial(track, own, console))
        except RtdynError as error:
            outcome = Outcome(label, None, str(error))
        if outcome.failure is not None:
            say_plain(console, f"{label} failed: {outcome.failure}")
        outcomes.append(outcome)
    return outcomes


def outcome_of(label: str, track: Callable[[], Run]) -> Outcome:
    """What became of one suite; that steps of it failed is part of the outcome. Raises RtdynError for all else."""
    try:
        return Outcome(label, track(), None)
    except IncompleteError as error:
        return Outcome(label, read_run(error.run), str(error))


def raise_failures(outcomes: Sequence[Outcome], things: str = "suites") -> None:
    """Raises InputError that names the suites, or other things, that failed, if any."""
    failed = [outcome.label for outcome in outcomes if outcome.failure is not None]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(outcomes)} {things} failed ({', '.join(failed)}), each for the reason given above; "
            "the same command tries them again and leaves alone what is done"
        )
