"""Checkpoints on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtdyn.checkpoints.checkpoint import CONFIG, Checkpoint, read_json, sha256_of, weight_files
from rtdyn.errors import InputError
from rtdyn.hub_errors import reach
from rtdyn.registry import SuiteSpec
from rtdyn.tokenizer import TOKENIZER_FILES

_SHA256_DIGITS = 64


@dataclass(frozen=True)
class _Revision:
    """A branch as it stands on the Hub, or as much of it as the cache holds where HF_HUB_OFFLINE is set."""

    repo: str
    branch: str
    what: str
    """How to name it to the user."""
    commit: str
    files: dict[str, str | None]
    """Every file's name, with the SHA-256 that the Hub publishes for those it keeps in LFS."""


def fetch_hub(suite: SuiteSpec, step: int) -> Checkpoint:
    """The checkpoint of `step`: its revision resolved to a commit, then config and weights of that commit.

    Files go to the user's Hugging Face cache; HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are
    respected. A weight file whose bytes differ from the digest the Hub publishes is refused.
    """
    revision = _resolve(suite, suite.revision_of(step))
    names = weight_files(
        set(revision.files), lambda name: read_json(_download(revision, name, revision.commit)), revision.what
    )
    folder = _snapshot(revision, [CONFIG, *names])
    digests = {name: sha256_of(folder / name) for name in names}
    for name, digest in digests.items():
        if revision.files[name] not in (None, digest):
            raise InputError(
                f"{revision.what}: {name} differs from the digest the Hub publishes; "
                f"delete {(folder / name).resolve()} and run the command again"
            )
    return Checkpoint(step, folder, revision.branch, revision.commit, digests)


def hub_config_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the config.json of `step`'s revision."""
    return _snapshot(_resolve(suite, suite.revision_of(step)), [CONFIG])


def hub_tokenizer_folder(suite: SuiteSpec, step: int) -> Path:
    """A folder with the tokenizer files of `step`'s revision, or of the main branch if that has none."""
    for branch in (suite.revision_of(step), "main"):
        revision = _resolve(suite, branch)
        if any(name in TOKENIZER_FILES for name in revision.files):
            return _snapshot(revision, [n for n in (CONFIG, *TOKENIZER_FILES) if n in revision.files])
    raise InputError(f"{revision.what} holds no tokenizer files")


def _resolve(suite: SuiteSpec, branch: str) -> _Revision:
    """The commit that `branch` stands for and what it holds."""
    from huggingface_hub import HfApi, constants, errors

    assert suite.repo is not None
    repo, what = suite.repo, f"{suite.repo}, revision {branch}"

    def ask() -> _Revision:
        try:
            # the library's own default is to wait for an answer for ever
            info = HfApi().model_info(repo, revision=branch, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except errors.OfflineModeIsEnabled:
            cached = _cached(repo, branch, f"{what} (the cached part, as HF_HUB_OFFLINE is set)")
            if cached is None:
                raise
            return cached
        files = {s.rfilename: s.lfs.sha256 if s.lfs else None for s in info.siblings or []}
        return _Revision(repo, branch, what, str(info.sha), files)

    return reach(ask, what)


def _cached(repo: str, branch: str, what: str) -> _Revision | None:
    """What the cache holds of a branch, None if nothing."""
    from huggingface_hub import try_to_load_from_cache

    for name in (CONFIG, *TOKENIZER_FILES):
        file = try_to_load_from_cache(repo, name, revision=branch)
        if isinstance(file, str):
            # the cache links each file to a blob named by the digest the Hub gave: a SHA-256 for those in LFS
            blobs = {f.name: f.readlink().name if f.is_symlink() else "" for f in Path(file).parent.iterdir()}
            files = {name: blob if len(blob) == _SHA256_DIGITS else None for name, blob in blobs.items()}
            return _Revision(repo, branch, what, Path(file).parent.name, files)
    return None


def _snapshot(revision: _Revision, names: Sequence[str]) -> Path:
    """The folder of the revision in the cache, with these files in it; the first lies at its top."""
    # asked for by branch, the cache notes which commit the branch stands for; HF_HUB_OFFLINE needs that
    _download(revision, names[0], revision.branch)
    first, *_ = [_download(revision, name, revision.commit) for name in names]
    return first.parent


def _download(revision: _Revision, name: str, at: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(reach(lambda: hf_hub_download(revision.repo, name, revision=at), f"{revision.what}: {name}"))
