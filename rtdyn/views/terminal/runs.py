"""Run directories for readers and for machines: a list of them, and one as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.judge.overview import Overview, overview
from rtdyn.many import Outcome
from rtdyn.names import ANALYSES, RARE
from rtdyn.say_plain import say_plain
from rtdyn.store.stage_log import seconds_by_stage
from rtdyn.views.terminal.fitted import print_fitted
from rtdyn.views.terminal.summary import print_last_step


def run_record(seen: Overview) -> dict[str, Any]:
    """The run as JSON holds it; steps that are not stored stand in `missing`, with the reason in `failed` if known."""
    manifest = seen.manifest
    return {
        "run": str(seen.run.path),
        "model": manifest.suite,
        **({"design": manifest.design} if manifest.design else {}),
        "location": manifest.location,
        "state": seen.state,
        "steps": list(seen.stored),
        "missing": list(seen.missing),
        "failed": {str(step): why for step, why in manifest.failed.items()},
        "left_out": {str(step): why for step, why in manifest.left_out.items() if step in seen.stored},
        "passed_over": {} if manifest.audit is None else {str(s): why for s, why in manifest.audit.passed_over.items()},
        "config": manifest.config,
        "command": manifest.command,
        "seconds": seconds_by_stage(seen.run.path),
    }


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """What became of a suite as JSON holds it: the run's record, and the sentence of its failure or null."""
    record = {"model": outcome.label} if outcome.run is None else run_record(overview(outcome.run.path))
    return {**record, "failure": outcome.failure}


def print_runs(runs: Sequence[Overview | InputError], folder: Path, console: Console) -> None:
    """A row a run: model, steps, state and settings; then the sentences of those that cannot be read."""
    rows = [_row(seen) for seen in runs if isinstance(seen, Overview)]
    if rows:
        print_fitted(f"Runs in {folder}", rows, console)
    for error in runs:
        if isinstance(error, InputError):
            say_plain(console, str(error))


def print_run(seen: Overview, console: Console) -> None:
    """What was measured, with which settings, which steps are there and which are not and why, and the last step."""
    say = partial(say_plain, console)
    for name, text in _lines(seen):
        say(f"{name}: {text}")
    if seen.stored:
        print_last_step(seen.run, list(seen.stored), console)


def _row(seen: Overview) -> dict[str, str]:
    return {
        "run": seen.run.path.name,
        "model": seen.manifest.suite,
        "steps": steps_in_words(seen),
        "state": seen.state,
        "analyses": _analyses(seen),
        "settings": ", ".join(f"{name} {value}" for name, value in _settings(seen)),
    }


def steps_in_words(seen: Overview) -> str:
    """How many steps are stored of those asked for, and from which to which."""
    stored, asked = seen.stored, {*seen.manifest.asked, *seen.stored}
    count = f"{len(stored)}" if len(asked) == len(stored) else f"{len(stored)} of {len(asked)}"
    return count + (f" ({stored[0]} to {stored[-1]})" if len(stored) > 1 else f" ({stored[0]})" if stored else "")


def _analyses(seen: Overview) -> str:
    names = seen.manifest.config.get("analyses", [])
    return "all" if tuple(names) == ANALYSES else ", ".join(names)


def _settings(seen: Overview) -> Iterator[tuple[str, str]]:
    """The settings by which runs of one model mostly differ."""
    config, text = seen.manifest.config, seen.manifest.evaluation
    if seen.manifest.design:
        yield "design", seen.manifest.design
    if text is not None:
        yield "text", f"{text.corpus} ({counted(text.tokens, 'token')})"
    if seen.manifest.domains:
        yield "domains", str(len(seen.manifest.domains))
    for name in ("rare", "class_by", "layers", "seed"):
        if name in config:
            value = config[name]
            yield name.replace("_", "-"), " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _lines(seen: Overview) -> Iterator[tuple[str, str]]:
    manifest = seen.manifest
    yield "run", str(seen.run.path)
    yield "model", f"{manifest.suite}: {manifest.location}"
    yield "state", seen.state
    yield "steps", steps_in_words(seen)
    for step in seen.missing:
        yield f"step {step}", f"not stored; {manifest.failed.get(step, 'not analysed yet')}"
    if manifest.audit is not None:
        for step, why in manifest.audit.passed_over.items():
            yield f"step {step}", f"passed over; {why}"
    for step, why in manifest.left_out.items():
        if step in seen.stored:
            yield f"step {step}", f"kept in the tables and left out of trajectories; {why}"
    yield "analyses", _analyses(seen)
    yield from _settings(seen)
    if manifest.frequencies is not None:
        yield "frequencies", manifest.frequencies.source
    for name, record in manifest.classes.items():
        types, positions = counted(record.types, "type"), counted(record.positions, "position")
        yield f"class {name}", f"{types}, {positions}, {record.measured:,} measured"
    for name, domain in manifest.domains.items():
        text = domain.evaluation
        yield (
            f"domain {name}",
            f"{text.corpus} ({counted(text.tokens, 'token')}), "
            f"{counted(domain.classes[RARE].positions, 'rare position')}",
        )
    for name, left_out in manifest.domains_left_out.items():
        yield f"domain {name}", f"left out with {counted(left_out.rare_targets, 'rare position')}; {left_out.reason}"
    if manifest.command is not None:
        yield "begun with", manifest.command
    yield "versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    seconds = seconds_by_stage(seen.run.path)
    if seconds:
        yield "time by stage", ", ".join(f"{stage} {total:.1f} s" for stage, total in seconds.items())
