"""What the Hub says of a suite before any download: its branches, and the files of each."""

from __future__ import annotations

from collections.abc import Callable

from rtdyn.checkpoints.hub import model_info
from rtdyn.checkpoints.listing import FileInfo, Listing
from rtdyn.checkpoints.retry import METADATA, retrying
from rtdyn.hub_errors import reach
from rtdyn.registry import SuiteSpec


def hub_branches(suite: SuiteSpec) -> tuple[str, ...]:
    """Every branch of the suite's repository. Raises InputError if the Hub cannot be reached or refuses it."""
    from huggingface_hub import HfApi, constants, get_session

    repo = _repo(suite)

    def ask() -> tuple[str, ...]:
        # this call takes no limit of its own, and the library's default is to wait for ever
        get_session().timeout = constants.HF_HUB_ETAG_TIMEOUT
        return tuple(ref.name for ref in HfApi().list_repo_refs(repo).branches)

    return reach(lambda: retrying(ask, METADATA), f"{repo}, its branches")


def hub_listing(suite: SuiteSpec, branch: str, pause: Callable[[float], object]) -> Listing | None:
    """What a branch holds, None if there is no such branch; `pause` waits some seconds before another try.

    Raises InputError if the Hub cannot be reached or refuses the repository.
    """
    from huggingface_hub import errors

    repo = _repo(suite)

    def ask() -> Listing | None:
        try:
            info = model_info(repo, branch)
        except errors.RevisionNotFoundError:
            return None
        files = {}
        for file in info.siblings or []:
            digest = file.lfs.sha256 if file.lfs else f"git:{file.blob_id}" if file.blob_id else None
            files[file.rfilename] = FileInfo(file.size or 0, digest)
        return Listing(branch, info.sha, files)

    return reach(lambda: retrying(ask, METADATA, pause), f"{repo}, revision {branch}")


def hub_is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the Hub."""
    from huggingface_hub import is_offline_mode

    return bool(is_offline_mode())


def _repo(suite: SuiteSpec) -> str:
    assert suite.repo is not None
    return suite.repo
