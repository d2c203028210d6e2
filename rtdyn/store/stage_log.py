"""How long each stage of each step took: `log.jsonl` beside the tables, which must not depend on the clock."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

LOG = "log.jsonl"


class StageClock:
    """Told each stage as it begins, passes it on, and sums the seconds of a step."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.seconds: dict[str, float] = defaultdict(float)
        self.stage: str | None = None
        self.began = 0.0

    def begin(self, stage: str) -> None:
        """A stage begins, and the one before ends."""
        now = time.perf_counter()
        if self.stage is not None:
            self.seconds[self.stage] += now - self.began
        self.stage, self.began = stage, now
        self.tell(stage)

    def end(self) -> dict[str, float]:
        """The step ends; its seconds by stage."""
        if self.stage is not None:
            self.seconds[self.stage] += time.perf_counter() - self.began
        seconds, self.seconds, self.stage = dict(self.seconds), defaultdict(float), None
        return seconds


def log_seconds(run: Path, step: int, seconds: dict[str, float]) -> None:
    """Appends a step's seconds by stage, as one line."""
    line = json.dumps({"step": step, "seconds": {stage: round(s, 3) for stage, s in seconds.items()}})
    log = run / LOG
    cut_short = log.is_file() and not log.read_bytes().endswith(b"\n")
    with log.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_short + line + "\n")


def seconds_by_stage(run: Path) -> dict[str, float]:
    """Seconds of each stage over all logged steps; a line that a killed run left unfinished is left out."""
    total: dict[str, float] = defaultdict(float)
    for _, seconds in _lines(run):
        for stage, s in seconds.items():
            total[stage] += s
    return dict(total)


def logged_steps(run: Path) -> set[int]:
    """The steps that the log has."""
    return {step for step, _ in _lines(run)}


def _lines(run: Path) -> Iterator[tuple[int, dict[str, float]]]:
    file = run / LOG
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        yield record["step"], record["seconds"]
