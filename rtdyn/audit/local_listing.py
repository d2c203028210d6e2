"""Listings of a local suite's folders, in the form of the Hub's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from rtdyn.audit.listing import FileInfo, Listing, is_weights
from rtdyn.blame import reading
from rtdyn.checkpoints.checkpoint import sha256_of
from rtdyn.checkpoints.local import suite_folder
from rtdyn.errors import InputError
from rtdyn.git_lfs import PULL, holds_pointer
from rtdyn.hub.names import CONFIG, TOKENIZER_FILES
from rtdyn.suites.suite import SuiteSpec

_SAMPLE_BYTES = 65536


def local_branches(suite: SuiteSpec) -> tuple[str, ...]:
    """The names of all folders in the suite's folder."""
    return tuple(child.name for child in suite_folder(suite).iterdir() if child.is_dir())


def local_listings(suite: SuiteSpec, folders: Mapping[int, str], *, every_digest: bool) -> dict[int, Listing | None]:
    """What each step's folder holds, None where there is none, with the SHA-256 of the weights.

    Without `every_digest` some weight files are not read whole: those of a size and a sample of bytes unlike all others
    of the suite. A digest of the sample stands for it. A file that cannot be read has none, so that its step alone
    fails when it is loaded. Raises InputError with `every_digest` for a file that cannot be read.
    """
    top = suite_folder(suite)
    sizes = {step: _sizes(top / name) for step, name in folders.items()}
    files = [file for inside in sizes.values() for file in inside or ()]
    weights = [file for file in files if is_weights(file.name)]
    digests = {file: sha256_of(file) for file in weights} if every_digest else _digests(weights)
    pointers = _pointers([file for file in files if _is_needed(file.name)], every_digest)
    return {
        step: None
        if inside is None
        else Listing(
            folders[step],
            None,
            {f.name: FileInfo(size, digests.get(f), PULL if f in pointers else None) for f, size in inside.items()},
            _folders(top / folders[step]),
        )
        for step, inside in sizes.items()
    }


def tokenizer_beside(suite: SuiteSpec) -> tuple[list[str], list[str]]:
    """What is wrong with the tokenizer beside the step folders: files that are pointers, and files that cannot be read.

    A sentence each. A pointer is a fault of all steps; what a disk keeps from being read may be sound.
    """
    pointers, unread = [], []
    for file in (suite_folder(suite) / name for name in TOKENIZER_FILES):
        try:
            with reading(str(file)):
                if file.is_file() and holds_pointer(file):
                    pointers.append(f"the suite's {file.name} is a Git LFS pointer; {PULL}")
        except InputError as error:
            unread.append(str(error))
    return pointers, unread


def _is_needed(name: str) -> bool:
    """Whether a model may be loaded from a file of this name, or its tokenizer."""
    return is_weights(name) or name in (CONFIG, *TOKENIZER_FILES) or name.endswith(".index.json")


def _pointers(files: Sequence[Path], every_one: bool) -> set[Path]:
    """The files that are Git LFS pointers. Raises InputError with `every_one` for a file that cannot be read."""
    pointers = set()
    for file in files:
        handled: AbstractContextManager[object] = reading(str(file)) if every_one else suppress(OSError)
        with handled:
            if holds_pointer(file):
                pointers.add(file)
    return pointers


def _sizes(folder: Path) -> dict[Path, int] | None:
    """The bytes of each file of a folder, None if there is none, as one that is deleted just now."""
    try:
        return {file: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return None


def _folders(folder: Path) -> tuple[str, ...]:
    """The folders in a folder, each with a slash at its end; none if it has just been deleted."""
    try:
        return tuple(sorted(f"{inside.name}/" for inside in folder.iterdir() if inside.is_dir()))
    except FileNotFoundError:
        return ()


def _digests(files: Sequence[Path]) -> dict[Path, str]:
    samples: dict[Path, str] = {}
    for file in files:
        with suppress(OSError):
            samples[file] = _sample(file)
    times, digests = Counter(samples.values()), dict(samples)
    for file, sample in samples.items():
        if times[sample] > 1:
            with suppress(InputError):
                digests[file] = sha256_of(file)
    return digests


def _sample(file: Path) -> str:
    """A digest of a file's size and of 64 KiB at its start, middle and end: files that differ in it differ."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as handle:
        for offset in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            handle.seek(offset)
            digest.update(handle.read(_SAMPLE_BYTES))
    return f"sample:{digest.hexdigest()}"
