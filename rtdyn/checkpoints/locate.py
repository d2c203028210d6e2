"""Where a suite's tokenizer, config.json and shape are to be had."""

from __future__ import annotations

from pathlib import Path

from rtdyn.checkpoints.checkpoint import read_config
from rtdyn.checkpoints.local import step_folder, tokenizer_folder
from rtdyn.checkpoints.remote import hub_config_folder, hub_tokenizer_folder
from rtdyn.model.sizes import ModelShape, model_shape
from rtdyn.suites.suite import SuiteSpec


def find_tokenizer(suite: SuiteSpec, step: int) -> Path:
    """The folder with the suite's tokenizer, taken from `step` where steps carry their own."""
    return hub_tokenizer_folder(suite, step) if suite.repo is not None else tokenizer_folder(suite, step)


def find_config(suite: SuiteSpec, step: int) -> Path:
    """A folder with the config.json of `step`; no weights are fetched for it."""
    return hub_config_folder(suite, step) if suite.repo is not None else step_folder(suite, step)


def checkpoint_shape(folder: Path, where: str) -> ModelShape:
    """The shape of the model whose config.json lies in `folder`; what raises InputError says `where` it is from."""
    # `parameters` is the suites file's word; in a config.json it may be anybody's, of any type
    return model_shape({k: v for k, v in read_config(folder).items() if k != "parameters"}, where)
