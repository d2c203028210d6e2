"""Names that the Hub lists: branches and tags, folders and commits of a branch, repositories. No file is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

from rtdyn.hub.api import pages
from rtdyn.hub.errors import reach
from rtdyn.hub.names import CONFIG
from rtdyn.hub.retry import METADATA, retrying

T = TypeVar("T")
_CORRECT = "correct the branch"


def hub_refs(repo: str) -> tuple[str, ...]:
    """Every branch and tag of a repository, each name once.

    Raises InputError if the Hub cannot be reached or refuses it.
    """

    def ask() -> tuple[str, ...]:
        listed = pages(f"models/{repo}/refs")
        names = [ref["name"] for page in listed for kind in ("branches", "tags") for ref in page[kind]]
        return tuple(dict.fromkeys(names))

    return _asked(repo, ask, "its branches and tags")


def hub_folders(repo: str, branch: str) -> tuple[str, ...]:
    """The folders of a branch that hold a config.json, by their paths. Raises as `hub_refs`."""

    def ask() -> tuple[str, ...]:
        (description,) = pages(f"models/{repo}/revision/{quote(branch, safe='')}")
        names = [sibling["rfilename"] for sibling in description["siblings"]]
        return tuple(name.removesuffix(f"/{CONFIG}") for name in names if name.endswith(f"/{CONFIG}"))

    return _asked(repo, ask, f"the folders of {branch}")


def hub_commits(repo: str, branch: str) -> dict[str, str]:
    """The commits of a branch by their titles; of several with one title the newest. Raises as `hub_refs`."""

    def ask() -> dict[str, str]:
        listed = pages(f"models/{repo}/commits/{quote(branch, safe='')}")
        titles = [(commit["title"], commit["id"]) for page in listed for commit in page]
        return dict(reversed(titles))  # the newest is listed first, so it is put in last

    return _asked(repo, ask, f"the commits of {branch}")


def hub_repositories(owner: str, words: str) -> tuple[str, ...]:
    """The repositories of an owner whose names hold these words, as OWNER/NAME. Raises as `hub_refs`."""

    def ask() -> tuple[str, ...]:
        listed = pages("models", {"author": owner, "search": words, "limit": "1000"})
        return tuple(repository["id"] for page in listed for repository in page)

    return reach(lambda: retrying(ask, METADATA), f"{owner}, its repositories")


def _asked(repo: str, ask: Callable[[], T], what: str) -> T:
    from huggingface_hub.utils import validate_repo_id

    def valid() -> T:
        validate_repo_id(repo)
        return ask()

    return reach(lambda: retrying(valid, METADATA), f"{repo}, {what}", _CORRECT)
