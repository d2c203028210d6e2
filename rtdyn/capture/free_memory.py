"""How much memory is to be had: of the machine, of the process's control groups, of the GPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")
"""Files of a group's limit and use, and the key of memory.stat for the cached files it would give up first."""


def available_bytes(device: str) -> int:
    """Bytes that can still be taken: of RAM, and with `cuda` of the GPU's memory too, whichever is less.

    RAM is what the operating system calls available, and no more than the process's control groups (a container's or
    a batch job's limit) have left.
    """
    import psutil
    import torch

    room = [psutil.virtual_memory().available, *control_group_rooms()]
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        # what torch has reserved and not given out it will use again
        room.append(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return int(min(room))


def left_of(most: int) -> int:
    """Bytes that this process and those it started, which may take `most` of RAM together, can still take."""
    import psutil

    process, taken = psutil.Process(), 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            taken += member.memory_info().rss
    return max(0, most - taken)


def return_freed() -> None:
    """Has the C library give freed memory back to the system, where it can: glibc keeps blocks of up to 32 MiB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def control_group_rooms(groups: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> Iterator[int]:
    """Bytes left under each memory limit that the process's control groups, or those above them, set."""
    if not groups.is_file():
        return
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, (limit, use, cached) = root, V2
        elif "memory" in controllers.split(","):
            top, (limit, use, cached) = root / "memory", V1
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                most, used = _number(folder / limit), _number(folder / use)
                if most is not None and used is not None:
                    yield max(0, most - used + _statistic(folder / "memory.stat", cached))


def _number(file: Path) -> int | None:
    """None where there is no such file, or no limit."""
    text = file.read_text().strip() if file.is_file() else "max"
    return int(text) if text.isdigit() else None


def _statistic(file: Path, key: str) -> int:
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(value) for name, value in (line.split() for line in lines) if name == key), 0)
