"""What each stage of a step costs: wall seconds, processor seconds, and peaks of memory on the host and the device.

A stage's costs are taken as the next one begins. Processor seconds hold those of processes that this one runs, where
the system tells them (Linux). The library that fits the likelihoods of regimes is such a process. Peaks are the
process's since the stage began where the system can forget the peak before (Linux), else since it started.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 2**30


@dataclass(frozen=True)
class StageCost:
    """One stage's."""

    seconds: float
    processor_seconds: float
    host_peak_gib: float
    """Largest resident set of the process."""
    device_peak_gib: float | None
    """Most that torch had allocated on the device; None on the CPU."""


class StageCosts:
    """Told each stage as it begins, as `analyse_step` tells it; `tell` hears a stage begin, and end with its cost."""

    def __init__(self, device: str, tell: Callable[[str, StageCost | None], None]) -> None:
        self.cuda = device == "cuda"
        self.tell = tell
        self.stage: str | None = None
        self.began = (0.0, 0.0)

    def begin(self, stage: str) -> None:
        """A stage begins, and the one before ends."""
        self.end()
        self.tell(stage, None)
        _forget_host_peak()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.stage, self.began = stage, (time.perf_counter(), processor_seconds())

    def end(self) -> None:
        """The last stage ends."""
        if self.stage is None:
            return
        if self.cuda:
            torch.cuda.synchronize()
        wall, processor = time.perf_counter() - self.began[0], processor_seconds() - self.began[1]
        device = torch.cuda.max_memory_allocated() / GIB if self.cuda else None
        stage, self.stage = self.stage, None
        self.tell(stage, StageCost(wall, processor, host_peak_gib(), device))


def processor_seconds() -> float:
    """Of this process and of those it runs now."""
    own, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    for of_thread in Path("/proc/self/task").glob("*/children"):
        for child in of_thread.read_text().split():
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                # after the name in brackets, which may hold anything, utime and stime are fields 12 and 13
                counted = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
                own += sum(map(int, counted)) / ticks
    return own


def host_peak_gib() -> float:
    """The process's largest resident set."""
    status = Path("/proc/self/status")
    if status.is_file():
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**20
        )
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (GIB if sys.platform == "darwin" else 2**20)


def _forget_host_peak() -> None:
    # where it cannot be forgotten the peak is the process's, as the module says
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
