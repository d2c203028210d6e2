"""Checkpoints one after another, wherever the suite lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.checkpoints.hub import fetch_hub, hub_config_folder, hub_tokenizer_folder
from rtdyn.checkpoints.local import fetch_local, step_folder, tokenizer_folder
from rtdyn.registry import SuiteSpec


def fetch(suite: SuiteSpec, step: int) -> Checkpoint:
    """One checkpoint of the suite, on disk and verified."""
    return fetch_hub(suite, step) if suite.repo is not None else fetch_local(suite, step)


def stream(suite: SuiteSpec, steps: Iterable[int]) -> Iterator[Checkpoint]:
    """The suite's checkpoints in the order of `steps`, each fetched when it is asked for."""
    for step in steps:
        yield fetch(suite, step)


def find_tokenizer(suite: SuiteSpec, step: int) -> Path:
    """The folder with the suite's tokenizer, taken from `step` where steps carry their own."""
    return hub_tokenizer_folder(suite, step) if suite.repo is not None else tokenizer_folder(suite, step)


def find_config(suite: SuiteSpec, step: int) -> Path:
    """A folder with the config.json of `step`; no weights are fetched for it."""
    return hub_config_folder(suite, step) if suite.repo is not None else step_folder(suite, step)
