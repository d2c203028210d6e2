"""A suite's checkpoints, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtdyn.checkpoints.checkpoint import Checkpoint, sha256_of
from rtdyn.checkpoints.hub import fetch_hub, hub_config_folder, hub_tokenizer_folder
from rtdyn.checkpoints.local import fetch_local, step_folder, tokenizer_folder
from rtdyn.errors import InputError
from rtdyn.registry import SuiteSpec
from rtdyn.store import TABLES, Run, table_file


def fetch(suite: SuiteSpec, step: int) -> Checkpoint:
    """One checkpoint of the suite, on disk and verified."""
    return fetch_hub(suite, step) if suite.repo is not None else fetch_local(suite, step)


def check_stored(suite: SuiteSpec, run: Run, stored: Mapping[int, Mapping[str, Any]]) -> None:
    """Raises InputError if the weights of a stored step of a folder suite have changed since it was analysed.

    Only weight files newer than their results are hashed. A Hub revision is fixed by the commit that is stored.
    """
    for step, record in stored.items():
        if suite.repo is None and step in suite.steps:
            folder, analysed = step_folder(suite, step), table_file(run, TABLES[0], step).stat().st_mtime
            for name, digest in record["digests"].items():
                file = folder / name
                if not file.is_file() or (file.stat().st_mtime > analysed and sha256_of(file) != digest):
                    raise InputError(f"{file} is not what step {step} in {run.path} was made from; give another --out")


def find_tokenizer(suite: SuiteSpec, step: int) -> Path:
    """The folder with the suite's tokenizer, taken from `step` where steps carry their own."""
    return hub_tokenizer_folder(suite, step) if suite.repo is not None else tokenizer_folder(suite, step)


def find_config(suite: SuiteSpec, step: int) -> Path:
    """A folder with the config.json of `step`; no weights are fetched for it."""
    return hub_config_folder(suite, step) if suite.repo is not None else step_folder(suite, step)
