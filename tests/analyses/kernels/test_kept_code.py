"""Code that one process compiled and others load: whole or not at all, and of nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rtdyn.analyses.kernels import kept_code

LOOPS = """
import json, sys
import numpy as np
from rtdyn.analyses.kernels.compiled import compiled
from rtdyn.analyses.kernels.kept_code import keep

@compiled()
def total(values, start):
    for value in values:
        start += value * value
    return start

@compiled()
def twice(values):
    return 2.0 * total(values, values[0])

if sys.argv[1] == "odd":
    total(np.arange(3), 0)
made = [total(np.arange(3.0), 0.5), twice(np.arange(4.0) + 1)]
keep()
print(json.dumps([made, [sum(loop.stats.cache_hits.values()) for loop in (total, twice)]]))
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    program = tmp_path / "loops.py"
    program.write_text(LOOPS, encoding="utf-8")

    def start(kind: str = "plain") -> subprocess.Popen[str]:
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
        return subprocess.Popen(
            [sys.executable, str(program), kind], stdout=subprocess.PIPE, text=True, env=environment
        )

    return start


def printed(process: subprocess.Popen[str]) -> tuple[list[float], list[int]]:
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0
    made, hits = json.loads(out)
    return made, hits


MADE = [5.5, 62.0]


@pytest.mark.slow
def test_the_next_process_loads_what_one_compiled_and_leaves_nothing_else(
    run: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    assert printed(run()) == (MADE, [0, 0])
    assert printed(run()) == (MADE, [1, 1])
    (of_this,) = (tmp_path / "cache" / "rtdyn" / "compiled").iterdir()
    assert sorted(path.name for path in of_this.iterdir()) == ["__main__.total", "__main__.twice"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "loops.py"]

    for path in of_this.rglob("*.nbc"):
        path.write_bytes(path.read_bytes()[:-100])  # a machine that went down while it wrote
    assert printed(run()) == (MADE, [0, 0])
    assert printed(run()) == (MADE, [1, 1])


@pytest.mark.slow
def test_processes_that_compile_at_once_keep_one_whole_copy(
    run: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    at_once = [run(kind) for kind in ("plain", "odd", "plain")]
    assert [printed(process)[0] for process in at_once] == [MADE] * 3
    assert printed(run())[0] == MADE
    (of_this,) = (tmp_path / "cache" / "rtdyn" / "compiled").iterdir()
    assert sorted(path.name for path in of_this.iterdir()) == ["__main__.total", "__main__.twice"]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """This process's own folder, with one loop in it, and that of kept code."""
    own, kept = tmp_path / "own", tmp_path / "kept"
    (own / "loop" / "sub").mkdir(parents=True)
    (own / "loop" / "sub" / "f.1.nbc").write_bytes(b"code")
    kept.mkdir()
    monkeypatch.setattr(kept_code, "_own_folder", lambda: own)
    monkeypatch.setattr(kept_code, "_kept_folder", lambda: kept)
    monkeypatch.setattr(kept_code, "_forked", False)
    return own, kept


def test_what_is_kept_is_not_replaced(folders: tuple[Path, Path]) -> None:
    own, kept = folders
    kept_code.keep()
    assert (kept / "loop" / "sub" / "f.1.nbc").read_bytes() == b"code"
    (own / "loop" / "sub" / "f.1.nbc").write_bytes(b"other")
    kept_code.keep()
    kept_code._publish(own / "loop", kept / "loop")
    assert (kept / "loop" / "sub" / "f.1.nbc").read_bytes() == b"code"
    assert [path.name for path in kept.iterdir()] == ["loop"]


def test_a_copy_that_fails_leaves_nothing(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_code.shutil, "copytree", full)
    kept_code.keep()
    assert list(folders[1].iterdir()) == []


def test_a_process_that_forked_keeps_nothing(folders: tuple[Path, Path]) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    kept_code.keep()
    assert list(folders[1].iterdir()) == []


def test_a_folder_that_others_may_write_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = kept_code._kept_folder.__wrapped__()
    assert found is not None
    found.parent.chmod(0o777)
    assert kept_code._kept_folder.__wrapped__() is None
    found.parent.chmod(0o700)
    assert kept_code._kept_folder.__wrapped__() == found


def test_a_user_whose_new_folders_the_group_may_write_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = os.umask(0o002)
    try:
        assert kept_code._kept_folder.__wrapped__() is not None
    finally:
        os.umask(before)


def test_a_damaged_digest_is_no_digest(folders: tuple[Path, Path]) -> None:
    own, kept = folders
    kept_code.keep()
    (kept / "loop" / kept_code.DIGEST).write_bytes(b"\xff\xfe")
    kept_code._copy_sound(kept / "loop", own / "copied")
    assert not (own / "copied").exists() and not (kept / "loop").exists()


def test_what_nobody_used_for_a_month_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = kept_code._kept_folder.__wrapped__()
    assert found is not None
    old, recent = found.parent / "old", found.parent / "recent"
    for folder, days in ((old, 31), (recent, 29)):
        (folder / "loop").mkdir(parents=True)
        os.utime(folder, (time.time() - days * 86400,) * 2)
    assert kept_code._kept_folder.__wrapped__() == found
    assert not old.exists() and recent.exists()


def test_a_home_that_is_no_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_code._kept_folder.__wrapped__() is None
