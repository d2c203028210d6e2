"""Listings of a local suite's folders, in the form of the Hub's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rtdyn.audit.listing import FileInfo, Listing, is_weights
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

    Without `every_digest` a weight file that cannot equal another of the suite, going by its size and a sample of its
    bytes, is not read whole; a digest of the sample stands for it. Raises InputError for a file that cannot be read.
    """
    top = suite_folder(suite)
    there = {step: top / name for step, name in folders.items() if (top / name).is_dir()}
    files = {step: sorted(file for file in folder.iterdir() if file.is_file()) for step, folder in there.items()}
    try:
        digests = _digests([f for inside in files.values() for f in inside if is_weights(f.name)], every_digest)
        pointers = {f for inside in files.values() for f in inside if _is_needed(f.name) and holds_pointer(f)}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}; make it readable") from error
    described = {
        step: {f.name: FileInfo(f.stat().st_size, digests.get(f), PULL if f in pointers else None) for f in inside}
        for step, inside in files.items()
    }
    return {step: Listing(name, None, described[step]) if step in files else None for step, name in folders.items()}


def pointers_beside(suite: SuiteSpec) -> list[str]:
    """The files of the tokenizer beside the step folders that are Git LFS pointers."""
    return [
        n for n in TOKENIZER_FILES if (suite_folder(suite) / n).is_file() and holds_pointer(suite_folder(suite) / n)
    ]


def _is_needed(name: str) -> bool:
    """Whether a model may be loaded from a file of this name, or its tokenizer."""
    return is_weights(name) or name in (CONFIG, *TOKENIZER_FILES) or name.endswith(".index.json")


def _digests(files: Sequence[Path], every_digest: bool) -> dict[Path, str]:
    if every_digest:
        return {file: sha256_of(file) for file in files}
    samples = {file: _sample(file) for file in files}
    times = Counter(samples.values())
    return {file: sample if times[sample] == 1 else sha256_of(file) for file, sample in samples.items()}


def _sample(file: Path) -> str:
    """A digest of a file's size and of 64 KiB at its start, middle and end: files that differ in it differ."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as handle:
        for offset in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            handle.seek(offset)
            digest.update(handle.read(_SAMPLE_BYTES))
    return f"sample:{digest.hexdigest()}"
