"""Many suites in one command: one after another, a run directory each, and one W&B group for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from rtdyn.analyses.options import StepOptions
from rtdyn.errors import InputError, RtdynError
from rtdyn.store.run import MANIFEST, Run, config_digest
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import EvaluationOptions

Track = Callable[[SuiteSpec, Path | None], Run]
"""Tracks a suite into a directory, its default one if None."""
_HOW = ("memory_gib", "stream_layers", "device", "task_memory_gib")
"""Settings of how a run is made, not of what."""


@dataclass(frozen=True)
class Outcome:
    """What became of one suite."""

    label: str
    run: Run | None
    """None if it failed."""
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


def group_of(suites: Sequence[SuiteSpec], measured_on: EvaluationOptions, analysed: StepOptions) -> str:
    """The W&B group of a command over these suites: what their names begin with alike, and a digest of its settings.

    The same command goes into the same group again, and so does one with further suites of that beginning.
    """
    settings = {name: value for name, value in {**asdict(measured_on), **asdict(analysed)}.items() if name not in _HOW}
    columns = zip(*(suite.name.split("-") for suite in suites), strict=False)
    parts = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    # W&B takes groups of up to 128 characters
    return f"{'-'.join(parts)[:100] or 'suites'}-{config_digest(settings)[:8]}"


def track_many(suites: Sequence[SuiteSpec], track: Track, out: Path | None, console: Console) -> list[Outcome]:
    """Tracks each suite; one that cannot be used is said and the next begins.

    out: the folder of the run directories, each called as `labels` has it. Raises InputError if it is a run itself.
    """
    if out is not None and (out / MANIFEST).is_file():
        raise InputError(
            f"{out} is a run directory; with several suites --out is a folder that gets one of each, give another"
        )
    outcomes = []
    for number, (label, suite) in enumerate(zip(labels(suites), suites, strict=True), start=1):
        _say(console, f"suite {number} of {len(suites)}: {label}")
        try:
            outcomes.append(Outcome(label, track(suite, None if out is None else out / label), None))
        except RtdynError as error:
            _say(console, f"{label} failed: {error}")
            outcomes.append(Outcome(label, None, str(error)))
    return outcomes


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raises InputError that names the suites that failed, if any."""
    failed = [outcome.label for outcome in outcomes if outcome.failure is not None]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(outcomes)} suites failed ({', '.join(failed)}), each for the reason given above; "
            "the same command tries them again and leaves alone what is done"
        )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
