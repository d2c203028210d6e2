"""The process that analyses a training run's steps while it trains: `python -m rtdyn.integrations.worker`.

It reads the job from stdin, a pickle of the process that started it. Then it reads a line for each step whose links lie
ready: its number, and the training tokens seen where the trainer counts them. On stdout it answers in lines of JSON.
`said` is for what a run prints, `finished` for a step that is done with, stored or not, and `failed` for what ended it.
It ends when stdin does.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO

from rtdyn.errors import RtdynError, brief
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job

LESS_URGENT = 10
"""What is added to the process's niceness: the training goes first."""


@dataclass(frozen=True)
class Assignment:
    """All that the process needs to know."""

    job: Job
    suite: SuiteSpec
    folder: Path
    """Where the links of steps lie."""


def main() -> None:
    """Analyses the steps that stdin names, until it ends."""
    # whatever a library prints must not come between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.nice(LESS_URGENT)

    def answer(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        _work(sys.stdin.buffer, answer)
    except RtdynError as error:
        answer(failed=str(error))
    except Exception as error:
        traceback.print_exc()
        answer(failed=brief(error))


def _work(orders: BinaryIO, answer: Any) -> None:
    assignment: Assignment = pickle.load(orders)
    from rich.console import Console

    from rtdyn.checkpoints.arriving import gone_after, linked_steps
    from rtdyn.following.run import follow

    class Lines(StringIO):
        """Passes each line on as it is printed."""

        def write(self, text: str) -> int:
            for line in text.splitlines():
                if line.strip():
                    answer(said=line.rstrip())
            return len(text)

    tokens: dict[int, int | None] = {}

    def now() -> SuiteSpec:
        """The run with the steps so far, as it would be found in its folder if none of them were deleted."""
        steps = tuple(sorted(tokens))
        seen = tuple(tokens[step] for step in steps)
        names = tuple(assignment.suite.revision_of(step) for step in steps)
        return replace(assignment.suite, steps=steps, names=names, tokens=seen if any(seen) else ())

    linked = linked_steps(now, assignment.folder, gone_after(_steps(orders, tokens), assignment.folder))

    def release(step: int) -> None:
        linked.stream.release(step)
        answer(finished=step)

    arriving = replace(linked, stream=replace(linked.stream, release=release))
    follow(assignment.job, arriving, Console(file=Lines(), width=120))


def _steps(orders: BinaryIO, tokens: dict[int, int | None]) -> Iterator[int]:
    """The steps that are ordered; the tokens seen at each are put into `tokens` before."""
    while line := orders.readline():
        step, *seen = map(int, line.split())
        tokens[step] = seen[0] if seen else None
        yield step


if __name__ == "__main__":
    main()
