"""A run with its audit's verdicts, and which of its steps are no observations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rtdyn.audit.fingerprint import decode
from rtdyn.audit.repeats import repeated_fingerprints
from rtdyn.audit.shared_weights import steps_left_out
from rtdyn.audit.two_saves import misplaced_steps
from rtdyn.counted import counted
from rtdyn.judge.trajectories import MIN_STEPS
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import Run, done_steps, read_fingerprints, read_run


def read_judged(path: Path) -> Run:
    """An existing run whose manifest says which stored steps are left out, also if it was cut off before it said so.

    Raises InputError if there is no run or its store schema is not this version's.
    """
    run = read_run(path)
    stored = done_steps(run)
    if is_recorded(run, stored) or run.manifest.schedule is None:
        return run
    return Run(path, run.manifest.replace(left_out=left_out(run, stored)))


def is_recorded(run: Run, stored: Collection[int]) -> bool:
    """Whether the manifest knows these stored steps: not while the run goes on, nor after it was killed."""
    return run.manifest.checkpoints.keys() == set(stored)


def left_out(run: Run, stored: Mapping[int, CheckpointRecord]) -> dict[int, str]:
    """Steps that are no observations of their own, ascending, each with the reason.

    The audit gives it or, where there was none, the defects in the schedule, which the manifest has to hold. So do
    equal digests, and the weights' fingerprints.
    """
    schedule, audit = run.manifest.schedule, run.manifest.audit
    assert schedule is not None
    last_step, defects = schedule.last_step, schedule.defects
    verdicts = {} if audit is None else audit.steps
    audited = {step: "; ".join(v.reasons) if v.left_out else None for step, v in verdicts.items()}
    reasons = steps_left_out({step: record.digests for step, record in stored.items()}, last_step, defects, audited)
    texts = {step: text for step, text in read_fingerprints(run, stored).items() if step not in reasons}
    known = {step: decode(text) for step, text in texts.items()}
    comparable = {step: fingerprint for step, fingerprint in known.items() if fingerprint is not None}
    repeats = repeated_fingerprints(comparable, last_step, defects)
    reasons.update(repeats)
    comparable = {step: fingerprint for step, fingerprint in comparable.items() if step not in repeats}
    reasons.update(misplaced_steps(comparable, schedule.steps_are_updates))
    return dict(sorted(reasons.items()))


def few_sound(steps: Collection[int], record: Mapping[str, Any], left_out: Collection[int]) -> str:
    """A warning where trajectories would have too few steps; empty else.

    steps: to be run or stored. record: of the audit before the run. left_out: stored steps that are no observations.
    """
    unsound = {int(step) for step, verdict in record["steps"].items() if verdict["left_out"]} | set(left_out)
    sound = len(set(steps) - unsound)
    if sound >= MIN_STEPS:
        return ""
    return (
        f"caution: {counted(sound, 'sound step')}, and trajectories, emergence and claims need {MIN_STEPS}; "
        "the tables are made all the same, further --steps can be added later"
    )
