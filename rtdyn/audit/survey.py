"""The metadata that an audit judges, from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rtdyn.audit.listing import FileInfo, Listing
from rtdyn.audit.local_listing import local_branches, local_listings
from rtdyn.audit.shared_weights import MAIN
from rtdyn.audit.verdicts import Audit, audit
from rtdyn.errors import InputError
from rtdyn.hub.download import Line
from rtdyn.hub.errors import reach
from rtdyn.hub.repository import _repo, hub_branches, hub_is_offline, model_info
from rtdyn.hub.retry import METADATA, each_answer, retrying
from rtdyn.suites.suite import SuiteSpec


def can_survey(suite: SuiteSpec) -> bool:
    """Whether the suite's metadata can be had at all: a Hub's cannot where HF_HUB_OFFLINE is set."""
    return suite.repo is None or not hub_is_offline()


def audit_suite(suite: SuiteSpec) -> Audit:
    """The audit of every step of the suite, and of branches or folders that its schedule does not know.

    Raises InputError if the metadata cannot be had.
    """
    if not can_survey(suite):
        raise InputError("an audit asks the Hub and HF_HUB_OFFLINE is set; unset it")
    branches = hub_branches(suite) if suite.repo is not None else local_branches(suite)
    return _survey(suite, suite.steps, branches, every_digest=True)


def audit_steps(suite: SuiteSpec, steps: Iterable[int]) -> Audit:
    """The audit of `steps` and of those they may repeat: a Hub's last step and main, all steps of a folder.

    Of a folder only those files are hashed whole that may be equal; of others a sample is. Raises as `audit_suite`.
    """
    beside = (suite.steps[-1],) if suite.repo is not None else suite.steps
    return _survey(suite, sorted({*steps, *beside}), (), every_digest=False)


def _survey(suite: SuiteSpec, steps: Iterable[int], branches: Iterable[str], *, every_digest: bool) -> Audit:
    wanted = {step: suite.revision_of(step) for step in steps}
    if suite.repo is None:
        return audit(suite, local_listings(suite, wanted, every_digest=every_digest), None, tuple(branches))
    found = hub_listings(suite, [*wanted.values(), MAIN])
    return audit(suite, {step: found[name] for step, name in wanted.items()}, found[MAIN], tuple(branches))


def hub_listings(suite: SuiteSpec, names: Iterable[str]) -> dict[str, Listing | None]:
    """What each branch holds, asked for a few at a time. Raises InputError for the first that cannot be had."""
    line = Line()
    names = list(dict.fromkeys(names))
    found = each_answer(lambda name: hub_listing(suite, name, line.pause), names, line.stop)
    return dict(zip(names, found, strict=True))


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
