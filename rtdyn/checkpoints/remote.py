"""Configuration and tokenizer of a suite on the Hub, as folders on this disk."""

from __future__ import annotations

from pathlib import Path

from rtdyn.errors import InputError
from rtdyn.hub.names import CONFIG, TOKENIZER_FILES
from rtdyn.hub.repository import cached_folder, revision_at
from rtdyn.suites.suite import SuiteSpec


def hub_config_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the config.json of `step`'s revision."""
    return cached_folder(revision_at(suite.hub_repo, suite.revision_of(step)), [CONFIG])


def hub_tokenizer_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the tokenizer files of `step`'s revision, or of the main branch if that has none."""
    for branch in (suite.revision_of(step), "main"):
        revision = revision_at(suite.hub_repo, branch)
        if any(name in TOKENIZER_FILES for name in revision.files):
            return cached_folder(revision, [n for n in (CONFIG, *TOKENIZER_FILES) if n in revision.files])
    raise InputError(f"{revision.what} holds no tokenizer files")
