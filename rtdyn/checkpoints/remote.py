"""Configuration and tokenizer of a suite on the Hub, as folders on this disk."""

from __future__ import annotations

from pathlib import Path

from rtdyn.errors import InputError
from rtdyn.hub.names import CONFIG, TOKENIZER_FILES
from rtdyn.hub.repository import cached_folder, revision_at
from rtdyn.suites.suite import MAIN, Place, SuiteSpec


def hub_config_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the config.json of `step`."""
    return cached_folder(revision_at(suite.place_of(step)), [CONFIG])


def hub_tokenizer_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the tokenizer files of `step`, else those of its repository's main branch.

    A suite may name a repository for its tokenizer, which is then the only place.
    """
    places = [suite.place_of(step), Place(suite.place_of(step).repo, MAIN)]
    if suite.tokenizer:
        repo, _, revision = suite.tokenizer.partition("@")
        places = [Place(repo, revision or MAIN)]
    for place in places:
        revision_there = revision_at(place)
        if any(name in TOKENIZER_FILES for name in revision_there.files):
            return cached_folder(revision_there, [n for n in (CONFIG, *TOKENIZER_FILES) if n in revision_there.files])
    raise InputError(f"{places[-1].what} holds no tokenizer files; name a repository that does in a suites file")
