"""The metadata that an audit judges, from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rtdyn.audit.listing import FileInfo, Listing, is_weights
from rtdyn.audit.local_listing import local_branches, local_listings, tokenizer_beside
from rtdyn.audit.local_weights import faults_beside_numbers, fingerprints_in, loaded_weights
from rtdyn.audit.shared_weights import MAIN
from rtdyn.audit.verdicts import Audit, audit
from rtdyn.errors import InputError
from rtdyn.git_lfs import LONGEST, UPLOADED_SO, is_pointer
from rtdyn.hub.download import read_small
from rtdyn.hub.ranges import Transfer
from rtdyn.hub.remote_file import RemoteFile
from rtdyn.hub.repository import Revision, branch_metadata, hub_is_offline, hub_refs
from rtdyn.hub.retry import each_answer
from rtdyn.suites.suite import SuiteSpec


def can_survey(suite: SuiteSpec) -> bool:
    """Whether the suite's metadata can be had at all: a Hub's cannot where HF_HUB_OFFLINE is set."""
    return suite.repo is None or not hub_is_offline()


def audit_suite(suite: SuiteSpec) -> Audit:
    """The audit of every step of the suite, and of branches or folders that its schedule does not know.

    A folder's weights are read whole, and their fingerprints compared. Raises InputError if the metadata cannot be had.
    """
    if not can_survey(suite):
        raise InputError("an audit asks the Hub and HF_HUB_OFFLINE is set; unset it")
    branches = hub_refs(suite.repo) if suite.repo is not None else local_branches(suite)
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
        here = local_listings(suite, wanted, every_digest=every_digest)
        weights = loaded_weights(here)
        faults = faults_beside_numbers(suite, weights)
        prints = fingerprints_in(suite, weights, faults) if every_digest else {}
        pointers, unread = tokenizer_beside(suite)
        if pointers:
            for found in faults.values():
                found["tokenizer"] = pointers[0]
        audited = audit(suite, here, None, tuple(branches), faults, prints)
        return replace(audited, findings=(*audited.findings, *unread))
    listings = hub_listings(suite.hub_repo, [*wanted.values(), MAIN])
    return audit(suite, {step: listings[name] for step, name in wanted.items()}, listings[MAIN], tuple(branches))


def hub_listings(repo: str, branches: Iterable[str]) -> dict[str, Listing | None]:
    """What each branch of a repository holds, None where there is no such branch; a few are asked for at a time.

    Raises InputError for the first that cannot be had.
    """
    transfer = Transfer()
    branches = list(dict.fromkeys(branches))
    listings = each_answer(lambda branch: _hub_listing(repo, branch, transfer), branches, transfer.stop)
    return dict(zip(branches, listings, strict=True))


def _hub_listing(repo: str, branch: str, transfer: Transfer) -> Listing | None:
    described = branch_metadata(repo, branch, transfer.pause)
    if described is None:
        return None
    commit, files = described
    revision = Revision(repo, branch, f"{repo}, revision {branch}", str(commit), {file.name: file for file in files})
    return Listing(branch, commit, {file.name: _file_info(revision, file, transfer) for file in files})


def _file_info(revision: Revision, file: RemoteFile, transfer: Transfer) -> FileInfo:
    """What the Hub says of a file; weights outside LFS that are as short as a pointer are read, to tell."""
    digest = file.sha256 or (f"git:{file.blob_id}" if file.blob_id else None)
    short = is_weights(file.name) and not file.sha256 and file.blob_id and 0 <= file.size < LONGEST
    is_one = bool(short) and is_pointer(read_small(revision, file, transfer))
    return FileInfo(max(file.size, 0), digest, UPLOADED_SO if is_one else None)
