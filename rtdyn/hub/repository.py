"""The Hugging Face Hub: what a revision of a model holds, and its small files in the user's cache.

HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are the client library's own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rtdyn.errors import InputError
from rtdyn.hub.errors import reach
from rtdyn.hub.names import CONFIG, TOKENIZER_FILES
from rtdyn.hub.ranges import Source
from rtdyn.hub.remote_file import Digest, RemoteFile, digest_of
from rtdyn.hub.retry import METADATA, retrying
from rtdyn.suites.suite import Place

_SHA1, _SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
DOWNLOADS = 3
"""How often a file is downloaded whose bytes differ from the published digest."""


@dataclass(frozen=True)
class Revision:
    """A step's place as it stands on the Hub, or as much of it as the cache holds where HF_HUB_OFFLINE is set."""

    place: Place
    what: str
    """How to name it to the user."""
    commit: str
    files: dict[str, RemoteFile]

    @property
    def repo(self) -> str:
        """OWNER/NAME."""
        return self.place.repo

    @property
    def source(self) -> Source:
        """Where its files are read."""
        return Source(self.repo, self.commit, self.what, self.place.subfolder)

    def path(self, name: str) -> str:
        """Where a file lies in the repository."""
        return f"{self.place.subfolder}/{name}" if self.place.subfolder else name


def _described_at(place: Place) -> tuple[str, tuple[RemoteFile, ...]]:
    """The commit of a place and its files by their names there. Raises what the client raises."""
    from huggingface_hub import HfApi, constants

    # the library's own default is to wait for an answer for ever
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    info: Any = HfApi().model_info(place.repo, revision=place.revision, files_metadata=True, timeout=timeout)
    above = f"{place.subfolder}/" if place.subfolder else ""
    inside = [s for s in info.siblings or [] if s.rfilename.startswith(above)]
    return info.sha, tuple(_described(s, s.rfilename.removeprefix(above)) for s in inside)


def revision_at(place: Place, pause: Callable[[float], object] = time.sleep) -> Revision:
    """The commit that a place stands for and what it holds, asked again after 429, 5xx and cut connections.

    pause: waits some seconds before another try. Raises InputError in one sentence, also for file names that would
    lead out of a folder.
    """
    from huggingface_hub import errors

    what = place.what

    def ask() -> Revision:
        try:
            commit, files = _described_at(place)
        except errors.OfflineModeIsEnabled:
            cached = _cached(place, f"{what} (the cached part, as HF_HUB_OFFLINE is set)")
            if cached is None:
                raise
            return cached
        return Revision(place, what, str(commit), {file.name: file for file in files})

    revision = reach(lambda: retrying(ask, METADATA, pause), what)
    if not _SHA1.fullmatch(revision.commit):
        raise InputError(f"{what}: the Hub gives no commit for it; check HF_ENDPOINT")
    for name in revision.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise InputError(f"{what} lists a file {name!r} outside its folder; do not use this repository")
    return revision


def metadata_at(
    place: Place, pause: Callable[[float], object] = time.sleep
) -> tuple[str, tuple[RemoteFile, ...]] | None:
    """The commit of a place and its files as the Hub describes them, unchecked; None if there is no such place.

    pause: waits some seconds before another try. Raises InputError if the Hub cannot be reached or refuses the
    repository.
    """
    from huggingface_hub import errors

    def ask() -> tuple[str, tuple[RemoteFile, ...]] | None:
        try:
            commit, files = _described_at(place)
        except errors.RevisionNotFoundError:
            return None
        return (commit, files) if files or not place.subfolder else None

    return reach(lambda: retrying(ask, METADATA, pause), place.what)


def _described(sibling: Any, name: str) -> RemoteFile:
    """A file of the Hub's answer; a digest that is none is left out."""
    sha256 = str(sibling.lfs.sha256) if sibling.lfs else ""
    blob_id = str(sibling.blob_id or "")
    size = sibling.size if isinstance(sibling.size, int) and sibling.size >= 0 else -1
    return RemoteFile(
        name,
        size,
        sha256 if _SHA256.fullmatch(sha256) else None,
        blob_id if not sibling.lfs and _SHA1.fullmatch(blob_id) else None,
    )


def checked(revision: Revision, name: str) -> RemoteFile:
    """A file of the revision that can be verified. Raises InputError if it is not there, or nothing describes it."""
    file = revision.files.get(name)
    if file is None:
        raise InputError(f"{revision.what} has no {name}; leave the step out of --steps")
    if file.size < 0 or (file.sha256 or file.blob_id) is None:
        raise InputError(
            f"{revision.what}: no digest or size is known of {name}, so it cannot be verified; check HF_ENDPOINT"
        )
    return file


def _cached(place: Place, what: str) -> Revision | None:
    """What the cache holds of a place, None if nothing."""
    from huggingface_hub import try_to_load_from_cache

    below = PurePosixPath(place.subfolder)
    for name in (CONFIG, *TOKENIZER_FILES):
        file = try_to_load_from_cache(place.repo, str(below / name), revision=place.revision)
        if isinstance(file, str):
            folder = Path(file).parent
            files = {f.name: _described_by_link(f) for f in folder.iterdir() if f.is_file()}
            return Revision(place, what, [folder, *folder.parents][len(below.parts)].name, files)
    return None


def _described_by_link(link: Path) -> RemoteFile:
    """A cached file: the cache links it to a blob named by the digest the Hub gave."""
    blob = link.readlink().name if link.is_symlink() else ""
    return RemoteFile(
        link.name,
        link.stat().st_size,
        blob if _SHA256.fullmatch(blob) else None,
        blob if _SHA1.fullmatch(blob) else None,
    )


def in_cache(revision: Revision, file: RemoteFile) -> Path | None:
    """The file in the user's own Hugging Face cache, in this revision or as another's blob, None if it is not there."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    cached = try_to_load_from_cache(revision.repo, revision.path(file.name), revision=revision.commit)
    folder = repo_folder_name(repo_id=revision.repo, repo_type="model")
    blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / file.etag
    return Path(cached) if isinstance(cached, str) else blob if blob.is_file() else None


def check_cached(path: Path, revision: Revision, file: RemoteFile) -> Digest:
    """The digest of a file the user has. Raises InputError if it is not what the Hub describes."""
    digest = digest_of(path, file)
    if not digest.matches:
        raise InputError(
            f"{revision.what}: {file.name} differs from the digest the Hub publishes; "
            f"delete {path.resolve()} and run the command again"
        )
    return digest


def cached_folder(revision: Revision, names: Sequence[str]) -> Path:
    """The folder of the revision in the user's cache, with these small files in it, verified."""
    # asked for by branch, the cache notes which commit the branch stands for; HF_HUB_OFFLINE needs that
    _to_cache(revision, checked(revision, names[0]), revision.place.revision)
    first, *_ = [_to_cache(revision, checked(revision, name), revision.commit) for name in names]
    return first.parent


def _to_cache(revision: Revision, file: RemoteFile, at: str) -> Path:
    from huggingface_hub import hf_hub_download

    what, name = f"{revision.what}: {file.name}", revision.path(file.name)
    theirs = in_cache(revision, file) is not None
    for _ in range(DOWNLOADS):
        path = Path(reach(lambda: retrying(lambda: hf_hub_download(revision.repo, name, revision=at), METADATA), what))
        if theirs:
            check_cached(path, revision, file)
            return path
        if digest_of(path, file).matches:
            return path
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    raise differs(revision, file)


def differs(revision: Revision, file: RemoteFile) -> InputError:
    """The refusal of a file that came wrong each time."""
    return InputError(
        f"{revision.what}: {file.name} came {DOWNLOADS} times with other bytes than the digest the Hub publishes; "
        "check the network and run the command again"
    )


def hub_is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the Hub."""
    from huggingface_hub import is_offline_mode

    return bool(is_offline_mode())


def hub_home() -> Path:
    """Hugging Face's own folder on this machine, HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME)
