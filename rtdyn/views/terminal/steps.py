"""A suite's steps for the terminal: what each is called, how many tokens it has seen, what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtdyn.counted import counted
from rtdyn.suites.early import checkpoints_below
from rtdyn.suites.suite import SuiteSpec

_POWERS = (9, 10, 11)


def steps_records(suite: SuiteSpec, steps: Sequence[int]) -> list[dict[str, Any]]:
    """One object a step, for machines."""
    return [
        {
            "step": step,
            "revision": suite.revision_of(step),
            "tokens_seen": suite.tokens_seen(step),
            "defects": [f"{d.kind}: {d.note} ({d.source})" for d in suite.defects if step in d.steps],
        }
        for step in steps
    ]


def steps_lines(suite: SuiteSpec, steps: Sequence[int]) -> list[str]:
    """One line a step, and at the end how many there are early in training and where they were found."""
    rows = steps_records(suite, steps)
    width = max(12, *(len(row["revision"]) for row in rows))
    lines = []
    for row in rows:
        tokens = "" if row["tokens_seen"] is None else f"{row['tokens_seen']:>18,} tokens"
        lines.append(f"{row['revision']:>{width}}{tokens}  {'; '.join(row['defects'])}".rstrip())
    return [*lines, *_summary(suite, steps)]


def _summary(suite: SuiteSpec, steps: Sequence[int]) -> list[str]:
    below = [(power, checkpoints_below(suite, steps, 10**power)) for power in _POWERS]
    told = [f"10^{power} tokens {_written(*count)}" for power, count in below if count is not None]
    early = f"; below {', below '.join(told)}" if told else "; how many tokens they have seen is not known"
    found = [suite.note] if suite.names else []
    return [counted(len(steps), "checkpoint") + early, *found]


def _written(fewest: int, most: int) -> str:
    return str(fewest) if fewest == most else f"{fewest} to {most}, as their names are rounded"
