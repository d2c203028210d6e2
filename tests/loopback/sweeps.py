"""A sweep that is cheap enough for real clusters: the command in a process, what its workers say, its tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.hang import HANG
from support.processes import ONE_THREAD

from rtdyn.store.run import TASKS, done_steps, read_run, read_table
from rtdyn.store.schema import TABLES

STEPS = (0, 1, 512, 4000)
CHEAP = (
    "--rare", "0.65:0.95", "--tokens", "3072", "--min-targets", "20", "--positions-per-rare", "1",
    "--analyses", "ablation", "--wandb", "disabled",
)  # fmt: skip
TINY = ("--model", "tiny", "--steps", ",".join(map(str, STEPS)))


@dataclass(frozen=True)
class Sweep:
    """`rtdyn track` of some steps into a directory, in a process of its own."""

    out: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def program(self) -> list[str]:
        """What Python is given."""
        return ["-m", "rtdyn.cli", "track", "--out", str(self.out), *CHEAP, *self.arguments]

    def start(self) -> subprocess.Popen[str]:
        environment, pipe = {**os.environ, **ONE_THREAD, **self.environment}, subprocess.PIPE
        return subprocess.Popen([sys.executable, *self.program], env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self) -> subprocess.CompletedProcess[str]:
        process = self.start()
        out, err = process.communicate(timeout=HANG)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def stored(self) -> list[int]:
        return list(done_steps(read_run(self.out))) if (self.out / "manifest.json").is_file() else []

    def at_work(self) -> dict[int, dict[str, Any]]:
        """What the worker of each step in work says of itself."""
        found = {}
        for file in (self.out / TASKS).glob("step=*.try"):
            try:
                record = json.loads(file.read_text())
            except FileNotFoundError:
                continue
            if record["sentence"] is None:
                found[int(file.name[5:11])] = record
        return found

    def kill_worker(self, step: int) -> None:
        """Kills the worker of a step once it has begun it, and waits until the driver has taken note of that."""
        until(lambda: step in self.at_work())
        pid = self.at_work()[step]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.at_work().get(step, {}).get("pid") != pid)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def logged(run: Path) -> list[int]:
    return sorted(json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines())


def same_tables(one: Path, other: Path) -> None:
    for table in TABLES:
        assert read_table(read_run(one), table).equals(read_table(read_run(other), table)), table
