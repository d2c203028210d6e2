"""The stream's place on the disk: found again, cleared behind other runs, refused where it cannot be locked."""

from __future__ import annotations

import errno
import fcntl
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

from rtdyn.checkpoints.disk import open_scratch
from rtdyn.errors import InputError
from rtdyn.hub.ranges import StoppedError

REPO = "owner/model"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    return tmp_path / "rtdyn"


def test_places_that_killed_runs_left_are_cleared_and_those_in_use_are_not(root: Path) -> None:
    first, second = open_scratch(REPO, 10), open_scratch(REPO, 10)
    (second.folder / "part").write_bytes(b"x")
    neighbour = root / "owner--model.2"
    neighbour.mkdir()
    third = open_scratch(REPO, 10)
    assert len({first.folder, second.folder, third.folder}) == 3
    assert (second.folder / "part").exists() and neighbour.is_dir()
    for scratch in (first, third):
        scratch.close()
    second.lock.close()  # as a kill does
    again = open_scratch(REPO, 10)
    assert again.folder == first.folder and not second.folder.exists() and neighbour.is_dir()
    again.close()


def test_files_stay_within_what_is_spared_and_leave_room_for_the_steps_to_come(root: Path) -> None:
    scratch, stop = open_scratch(REPO, 10), threading.Event()
    scratch.spare = 4
    for step, files in enumerate(({"a": 3}, {"b": 2}, {"c": 1}, {"d": 6})):
        scratch.reserve(step, files, stop)
        for name, size in files.items():
            (scratch.folder / name).write_bytes(bytes(size))
        scratch.release(step)
    assert sorted(file.name for file in scratch.folder.iterdir()) == ["a", "c"]
    scratch.reserve(9, {"e": 3}, stop)
    stop.set()
    with pytest.raises(StoppedError):  # 4 stay, 3 are in work, and 4 more are beyond 10
        scratch.reserve(10, {"f": 4}, stop)
    assert scratch.close() == 4
    again = open_scratch(REPO, 10)
    assert again.clear_but(["a"]) == 3
    again.release(0)
    assert again.close() == 3


def test_a_file_system_without_locks_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(InputError, match=r"lock files there .*; set HF_HOME to a folder where both can be done"):
        open_scratch(REPO, 10)
    assert [file.name for file in root.iterdir()] == ["owner--model.lock"]
