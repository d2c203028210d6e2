"""The metadata that an audit judges, from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rtdyn.audit.listing import FileInfo, Listing, is_weights
from rtdyn.audit.local_listing import local_branches, local_listings, tokenizer_beside
from rtdyn.audit.local_weights import faults_beside_numbers, fingerprints_in, loaded_weights
from rtdyn.audit.verdicts import Audit, audit
from rtdyn.errors import InputError
from rtdyn.git_lfs import LONGEST, UPLOADED_SO, is_pointer
from rtdyn.hub.download import read_small
from rtdyn.hub.listings import hub_refs
from rtdyn.hub.ranges import Transfer
from rtdyn.hub.remote_file import RemoteFile
from rtdyn.hub.repository import Revision, hub_is_offline, metadata_at
from rtdyn.hub.retry import each_answer
from rtdyn.suites.suite import MAIN, REFS, Place, SuiteSpec


def can_survey(suite: SuiteSpec) -> bool:
    """Whether the suite's metadata can be had at all: a Hub's cannot where HF_HUB_OFFLINE is set."""
    return suite.repo is None or not hub_is_offline()


def audit_suite(suite: SuiteSpec) -> Audit:
    """The audit of every step of the suite, and of branches or folders that its schedule does not know.

    A folder's weights are read whole, and their fingerprints compared. Raises InputError if the metadata cannot be had.
    """
    if not can_survey(suite):
        raise InputError("an audit asks the Hub and HF_HUB_OFFLINE is set; unset it")
    if suite.names or suite.among != REFS:  # what else there is was said where the names were found
        branches: tuple[str, ...] = ()
    else:
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
    # main holds the last step's weights where steps are its sisters; a folder beside others is no model's main
    main = Place(suite.hub_repo, MAIN) if suite.among == REFS else None
    places = {step: suite.place_of(step) for step in wanted}
    listings = hub_listings([*places.values(), *([main] if main else [])])
    here = {step: listings[place] for step, place in places.items()}
    return audit(suite, here, listings[main] if main else None, tuple(branches))


def hub_listings(places: Iterable[Place]) -> dict[Place, Listing | None]:
    """What each place on the Hub holds, None where there is no such place; a few are asked for at a time.

    Raises InputError for the first that cannot be had.
    """
    transfer = Transfer()
    places = list(dict.fromkeys(places))
    listings = each_answer(lambda place: _hub_listing(place, transfer), places, transfer.stop)
    return dict(zip(places, listings, strict=True))


def _hub_listing(place: Place, transfer: Transfer) -> Listing | None:
    described = metadata_at(place, transfer.pause)
    if described is None:
        return None
    commit, files = described
    revision = Revision(place, place.what, str(commit), {file.name: file for file in files})
    infos = {file.name: _file_info(revision, file, transfer) for file in files}
    return Listing(place.subfolder or place.revision, commit, infos)


def _file_info(revision: Revision, file: RemoteFile, transfer: Transfer) -> FileInfo:
    """What the Hub says of a file; weights outside LFS that are as short as a pointer are read, to tell."""
    digest = file.sha256 or (f"git:{file.blob_id}" if file.blob_id else None)
    short = is_weights(file.name) and not file.sha256 and file.blob_id and 0 <= file.size < LONGEST
    is_one = bool(short) and is_pointer(read_small(revision, file, transfer))
    return FileInfo(max(file.size, 0), digest, UPLOADED_SO if is_one else None)
