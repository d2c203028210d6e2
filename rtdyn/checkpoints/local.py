"""Checkpoints in a folder of `step*/` folders, the bundled suite among them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rtdyn.checkpoints.checkpoint import Checkpoint, read_config, read_json, sha256_of, weight_files
from rtdyn.checkpoints.listing import FileInfo, Listing, is_weights
from rtdyn.errors import InputError
from rtdyn.registry import SuiteSpec
from rtdyn.tokenizer import TOKENIZER_FILES

_SAMPLE_BYTES = 65536


def fetch_local(suite: SuiteSpec, step: int) -> Checkpoint:
    """The checkpoint of `step`, its weight files hashed. Raises InputError if it is not whole."""
    folder = step_folder(suite, step)
    read_config(folder)
    names = {child.name for child in folder.iterdir() if child.is_file()}
    files = weight_files(names, lambda name: read_json(folder / name), str(folder))
    return Checkpoint(step, folder, suite.revision_of(step), None, {n: sha256_of(folder / n) for n in files})


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
    found = {step: sorted(file for file in folder.iterdir() if file.is_file()) for step, folder in there.items()}
    try:
        digests = _digests([f for files in found.values() for f in files if is_weights(f.name)], every_digest)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}; make it readable") from error
    return {
        step: Listing(name, None, {f.name: FileInfo(f.stat().st_size, digests.get(f)) for f in found[step]})
        if step in found
        else None
        for step, name in folders.items()
    }


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


def suite_folder(suite: SuiteSpec) -> Path:
    """The suite's folder. Raises InputError if it is not there."""
    if suite.path is None or not suite.path.is_dir():
        raise InputError(f"the suite {suite.name} has no folder at {suite.path}")
    return suite.path


def step_folder(suite: SuiteSpec, step: int) -> Path:
    """The folder of one step. Raises InputError if it is not there."""
    folder = suite_folder(suite) / suite.revision_of(step)
    if not folder.is_dir():
        raise InputError(f"step {step} of {suite.name} is missing: there is no folder {folder}")
    return folder


def tokenizer_folder(suite: SuiteSpec, step: int) -> Path:
    """Where the tokenizer is: beside the step folders, or in the folder of `step`."""
    top = suite_folder(suite)
    return top if any((top / name).is_file() for name in TOKENIZER_FILES) else step_folder(suite, step)
