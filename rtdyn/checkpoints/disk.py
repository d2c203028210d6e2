"""The stream's scratch space on the disk: files by digest, folders of steps, at most so many bytes, cleared behind it.

It lies under HF_HOME and holds only what rtdyn downloaded itself; the user's own cache is never written to or deleted
from by it. A killed run leaves whole files and parts of files, which the next run over the same repository goes on
with or clears.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rtdyn.errors import InputError
from rtdyn.file_lock import take_lock
from rtdyn.hub.download import PART
from rtdyn.hub.ranges import StoppedError
from rtdyn.hub.repository import hub_home


@dataclass
class Scratch:
    """Scratch space: a folder held by this process alone, and which steps keep which of its files."""

    folder: Path
    budget: int
    """Bytes; a single step may exceed it."""
    lock: TextIO
    """Held until `close`, so that no other process takes the folder."""
    kept: dict[int, Mapping[str, int]] = field(default_factory=dict)
    """By step: its files or folder, with their bytes."""
    spare: int = 0
    """Bytes of files that may stay when their steps are released, for a run that comes next."""
    stay: dict[str, int] = field(default_factory=dict)
    """Those that do."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def clear_but(self, wanted: Collection[str]) -> int:
        """Deletes what an earlier run left, but for files (or parts of them) wanted; returns the bytes that stay."""
        stay = 0
        for child in self.folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name.removesuffix(PART) in wanted:
                stay += child.stat().st_size
            else:
                child.unlink()
        return stay

    def reserve(self, step: int, files: Mapping[str, int], stop: threading.Event) -> None:
        """Waits until the step's files fit beside those of the steps in work. Raises StoppedError."""
        with self.changed:
            while not self._fits(files):
                if stop.is_set():
                    raise StoppedError
                self.changed.wait(0.2)
            self.kept[step] = files

    def _fits(self, files: Mapping[str, int]) -> bool:
        held = {name: size for others in self.kept.values() for name, size in others.items()}
        return not self.kept or sum({**self.stay, **held, **files}.values()) <= self.budget

    def release(self, step: int) -> None:
        """Deletes the step's files, but for those that another step keeps, and those that are to stay."""
        with self.changed:
            files = self.kept.pop(step, {})
            stay = {**self.stay, **{n: size for n, size in files.items() if (self.folder / n).is_file()}}
            if sum(stay.values()) <= self.spare:
                self.stay = stay
            for name in files:
                if name not in self.stay and not any(name in others for others in self.kept.values()):
                    self._delete(self.folder / name)
            self.changed.notify_all()

    @staticmethod
    def _delete(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def close(self) -> int:
        """Lets go of the folder; what is left in it, in bytes, is the next run's."""
        left = 0
        for child in self.folder.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                left += child.stat().st_size
        if not left:
            shutil.rmtree(self.folder)
        self.lock.close()
        return left


def open_scratch(repo: str, budget: int) -> Scratch:
    """The scratch space for a repository's files: the first folder that no other process holds, as a killed run's is.

    Further folders, of runs that went on at the same time, are cleared if none holds them any more. Raises InputError
    if it cannot be written or locked.
    """
    root = hub_home() / "rtdyn"
    name = repo.replace("/", "--")
    try:
        root.mkdir(parents=True, exist_ok=True)
        number, folder = 1, root / name
        while (lock := _lock(folder)) is None:
            number += 1
            folder = root / f"{name}--{number}"  # no repository's name holds two dashes
        folder.mkdir(exist_ok=True)
        for other in root.glob(f"{name}--*"):
            if other != folder and other.is_dir() and (its_lock := _lock(other)) is not None:
                shutil.rmtree(other)
                its_lock.close()
    except OSError as error:
        raise InputError(
            f"cannot write to {root}, or lock files there ({error.strerror}); set HF_HOME to a folder where both can "
            "be done, HF_HUB_CACHE to that of your files"
        ) from error
    return Scratch(folder, budget, lock)


def _lock(folder: Path) -> TextIO | None:
    """The lock of a folder, None if another process holds it."""
    lock = folder.with_name(f"{folder.name}.lock").open("w")
    try:
        held = take_lock(lock)
    except OSError:  # a file system without locks
        lock.close()
        raise
    if not held:
        lock.close()
    return lock if held else None
