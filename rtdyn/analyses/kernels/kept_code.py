"""Compiled loops that are kept on the disk, so that a process loads what an earlier one compiled.

numba's own cache may hand a loop the code of another signature or processor (numba 0.68). It does so when several
processes fill one folder at once, or when one is cut off while it writes. Here no folder is filled by two processes.
Each compiles into a folder of its own, and gives the others a finished loop by one rename. A kept folder is never
written again.

The folder is `$XDG_CACHE_HOME/rtdyn/compiled` (or `~/.cache/…`). Below it lies one folder for each installation,
processor and version of numba. Where it cannot be had, or others may write there, each process compiles anew. Code that
does not have its digest is compiled anew too.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba

UNUSED_DAYS = 30
"""After so many days without use a folder of kept code is removed."""

DIGEST = "sha256"
"""File in a loop's folder, with the digest of all others."""

_numba: Any = numba.config


def with_kept_code(name: str, decorate: Callable[[bool], Any]) -> Any:
    """A loop whose code is loaded, if some is kept under this name, and that is kept else.

    decorate: makes numba's dispatcher, told whether to use numba's cache.
    """
    own, kept = _own_folder(), _kept_folder()
    if own is None or kept is None or _numba.DISABLE_JIT:
        return decorate(False)
    try:
        _copy_sound(kept / name, own / name)
    except OSError:
        shutil.rmtree(own / name, ignore_errors=True)  # without space or rights: compiled in memory alone
    before = _numba.CACHE_DIR
    _numba.CACHE_DIR = str(own / name)  # read while the dispatcher is made
    try:
        loop = decorate(True)
    finally:
        _numba.CACHE_DIR = before
    if own not in Path(loop.stats.cache_path).parents:
        return decorate(False)  # numba fell back on a folder that other processes fill too
    save = loop._cache.save_overload

    def save_if_there_is_room(*of: Any) -> None:
        with suppress(OSError):
            save(*of)

    loop._cache.save_overload = save_if_there_is_room  # a full disk ends no run
    return loop


def _copy_sound(kept: Path, own: Path) -> None:
    """Copies a loop's kept code, if there is some and it has its digest; removes what has another."""
    if not kept.is_dir():
        return
    shutil.copytree(kept, own, dirs_exist_ok=True)
    told = own / DIGEST
    if not told.exists() or told.read_bytes() != _digest_of(own).encode():
        shutil.rmtree(own)
        shutil.rmtree(kept, ignore_errors=True)


def _digest_of(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGEST):
        content = path.read_bytes()
        found.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
    return found.hexdigest()


def keep() -> None:
    """Keeps what this process has compiled of loops that nothing is kept of yet."""
    own, kept = _own_folder(), _kept_folder()
    if own is None or kept is None or _forked or not own.is_dir():
        return
    for loop in own.iterdir():
        if not (kept / loop.name).exists() and any(loop.rglob("*.nbc")):
            _publish(loop, kept / loop.name)


def _publish(made: Path, name: Path) -> None:
    """Copies the folder beside its name, then renames it; of two processes that do so the first wins."""
    try:
        beside = Path(tempfile.mkdtemp(prefix=".", dir=name.parent))
    except OSError:
        return
    try:
        shutil.copytree(made, beside, dirs_exist_ok=True)
        (beside / DIGEST).write_text(_digest_of(beside), encoding="utf-8")
        if not name.exists():
            beside.rename(name)
    except OSError:
        return  # the disk is full, or another process was first: this loop is compiled again next time
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@cache
def _own_folder() -> Path | None:
    """This process's folder, removed as it ends; None if nothing can be kept."""
    if _kept_folder() is None:
        return None
    try:
        own = Path(tempfile.mkdtemp(prefix="rtdyn-compiled-"))
    except OSError:
        return None
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(own, ignore_errors=True) if os.getpid() == owner else None)
    return own


@cache
def _kept_folder() -> Path | None:
    """What earlier processes compiled, of these sources on this processor; None where it cannot be had or trusted."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtdyn" / "compiled"
        folder = root / _digest()
        for made in (root, folder):  # mkdir gives its mode to the last folder alone
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not all(_ours_alone(path) for path in (root, folder)):
            return None
        os.utime(folder)
        _remove_unused(root)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return None
    return folder


def _ours_alone(folder: Path) -> bool:
    """Whether nobody else can put code there."""
    if not hasattr(os, "getuid"):
        return True
    of = folder.stat()
    return of.st_uid == os.getuid() and not of.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest() -> str:
    """Names all that the compiled code depends on: sources, where they lie, versions, processor, numba's settings."""
    parts = [numba.__version__, llvmlite.__version__, sys.version]
    parts += [llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()]
    parts += sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
    for source in sorted(Path(__file__).parent.glob("*.py")):
        parts += [str(source), str(source.stat().st_mtime_ns), source.read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _remove_unused(root: Path) -> None:
    for folder in root.iterdir():
        if time.time() - folder.stat().st_mtime > UNUSED_DAYS * 86400:
            shutil.rmtree(folder, ignore_errors=True)


_forked = False


def _note_fork() -> None:
    """After a fork two processes fill one folder, so that nothing of it is kept."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_fork)
