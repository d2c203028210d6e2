"""Checkpoints in a folder of checkpoints, the bundled suite among them."""

from __future__ import annotations

from pathlib import Path

from rtdyn.blame import reading
from rtdyn.checkpoints.checkpoint import Checkpoint, read_config, read_json, sha256_of, weight_files
from rtdyn.errors import InputError
from rtdyn.hub.names import TOKENIZER_FILES
from rtdyn.suites.suite import SuiteSpec


def fetch_local(suite: SuiteSpec, step: int) -> Checkpoint:
    """The checkpoint of `step`, its weight files hashed. Raises InputError if it is not whole."""
    folder = step_folder(suite, step)
    with reading(str(folder)):
        names = {f"{child.name}/" if child.is_dir() else child.name for child in folder.iterdir()}
    files = weight_files(names, lambda name: read_json(folder / name), str(folder))
    read_config(folder)
    return Checkpoint(step, folder, suite.revision_of(step), None, {n: sha256_of(folder / n) for n in files})


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
