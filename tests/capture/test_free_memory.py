"""The memory that is left, by what the operating system says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from rtdyn.capture.free_memory import available_bytes, control_group_rooms, left_of


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_every_limit_from_the_own_group_up_counts_and_cached_files_are_room(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    root = tmp_path / "fs"
    stat = {"memory__stat": "anon 5\ninactive_file 300"}
    group(root / "job" / "step", memory__max="max", memory__current="700", **stat)
    group(root / "job", memory__max="1000", memory__current="800", **stat)
    group(root, memory__max="2000", memory__current="1900")
    assert list(control_group_rooms(tmp_path / "cgroup", root)) == [1000 - 800 + 300, 2000 - 1900]


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("5:cpu,cpuacct:/a\n4:memory:/job\n")
    files = {"memory.limit_in_bytes": "500", "memory.usage_in_bytes": "450", "memory.stat": "total_inactive_file 25"}
    (tmp_path / "fs" / "memory" / "job").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "fs" / "memory" / "job" / name).write_text(text)
    assert list(control_group_rooms(tmp_path / "cgroup", tmp_path / "fs")) == [75]


def test_a_group_over_its_limit_has_no_room_and_no_groups_set_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    group(tmp_path / "fs", memory__max="10", memory__current="30")
    assert list(control_group_rooms(tmp_path / "cgroup", tmp_path / "fs")) == [0]
    assert list(control_group_rooms(tmp_path / "none", tmp_path / "fs")) == []


def test_what_is_available_is_less_than_there_is() -> None:
    assert 0 < available_bytes("cpu") < psutil.virtual_memory().total


def test_processes_that_were_started_take_of_the_same_memory() -> None:
    most, mib = 2**40, 2**20
    before = left_of(most)
    script = f"held = bytearray({256 * mib}); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None and started.stdout.readline()
        during = left_of(most)
        started.communicate(b"\n")
    assert 250 * mib < before - during < 400 * mib
    assert left_of(0) == 0
