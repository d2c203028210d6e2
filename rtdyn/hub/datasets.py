"""Data sets on the Hugging Face Hub: which files an address means, and ranges of their bytes.

An address is `hf://datasets/OWNER/NAME[@REVISION][/PATH]`; PATH is a file, a folder, or a pattern with `*`, `?`,
`[...]` and `**`. The commit that it stands for is asked once and then remembered, so that the same address goes on
to mean the same bytes: a data set whose branch has moved is read anew only under another revision.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from http.client import OK
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote

from rtdyn.errors import InputError, UsageError, near_matches
from rtdyn.files import write_json
from rtdyn.hub.download import Line
from rtdyn.hub.errors import reach
from rtdyn.hub.repository import Digest, RemoteFile
from rtdyn.hub.retry import CONTENT, METADATA, each_answer, retrying
from rtdyn.names import HUB_SCHEME

FORMS = (".parquet", ".jsonl", ".jsonl.gz", ".json.gz", ".txt", ".txt.gz", ".bin")
"""Suffixes that can be read: rows, lines of JSON, plain text, and shards of token ids."""
_CHUNK = 4 << 20
_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)
T = TypeVar("T")


@dataclass(frozen=True)
class HubDataset:
    """What an address stands for: files of one form, at one commit."""

    address: str
    repo: str
    commit: str
    form: str
    """The suffix of all files, one of FORMS."""
    files: tuple[RemoteFile, ...]
    index: RemoteFile | None
    """Of token shards: the only `.idx` file beside them, which names their number type."""
    folder: Path
    """Where what is read of it is kept, in Hugging Face's folder of assets."""

    @property
    def what(self) -> str:
        """How to name it to the user."""
        return f"{self.address} (commit {self.commit[:12]})"


def is_hub(source: str) -> bool:
    """Whether `source` is an address on the Hub and not a file."""
    return source.startswith(HUB_SCHEME)


def resolve(address: str) -> HubDataset:
    """The files and the commit that an address stands for, as they were when it was first asked.

    The answer is kept in `source.json`, in the folder that `HubDataset.folder` names; HF_TOKEN, HF_HOME, HF_ENDPOINT
    and HF_HUB_OFFLINE are respected. Raises UsageError for an address that cannot be read, InputError for one that
    the Hub does not hold or whose files are of no form, or of several.
    """
    from huggingface_hub import cached_assets_path

    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(f"cannot read the address {address!r}; write hf://datasets/OWNER/NAME[@REVISION]/PATH")
    repo, revision = match["repo"], unquote(match["revision"] or "main")
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = _reach(lambda: cached_assets_path("rtdyn", repo, key), address)
    kept = _read_source(folder)
    if kept is None:
        commit = _commit(repo, revision, address)
        files = _list(repo, commit, (match["path"] or "").strip("/"), address)
        form, files, index = _one_form(files, repo, commit, address)
        kept = {
            "repo": repo,
            "commit": commit,
            "form": form,
            "files": [asdict(f) for f in files],
            "index": index and asdict(index),
        }
        write_json(folder / "source.json", {"address": address, **kept})
    kept["files"] = tuple(RemoteFile(**f) for f in kept["files"])
    kept["index"] = RemoteFile(**kept["index"]) if kept["index"] else None
    return HubDataset(address=address, folder=folder, **kept)


def read_range(
    dataset: HubDataset, file: RemoteFile, start: int, stop: int, pause: Callable[[float], object] = time.sleep
) -> bytes:
    """Bytes start <= i < stop of a file; if they are the whole file, its digest is checked.

    Asked again after rate limits (Retry-After), server errors and cut connections; `pause` waits some seconds before.
    Raises InputError if the Hub cannot be reached, or answers with other bytes than were asked for.
    """
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    if start >= stop:
        return b""
    what = f"{dataset.what}: {file.name}"

    def ask() -> bytes:
        url = hf_hub_url(dataset.repo, file.name, repo_type="dataset", revision=dataset.commit)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
            if answer.status_code == OK and stop - start < file.size:
                raise refusal("the whole file")  # which memory may not hold
            answer.read()
            hf_raise_for_status(answer)
            return bytes(answer.content)

    def refusal(got: str) -> InputError:
        return InputError(
            f"{what}: asked for {stop - start:,} bytes from {start:,}, got {got}; "
            "run the command again, or set HF_ENDPOINT to a server that answers ranges"
        )

    data = _reach(lambda: retrying(ask, CONTENT, pause), what)
    if len(data) != stop - start:
        raise refusal(f"{len(data):,}")
    if stop - start == file.size:
        digest = Digest(file)
        digest.update(data)
        _check_digest(dataset, digest)
    return data


def read_ranges(dataset: HubDataset, ranges: Sequence[tuple[RemoteFile, int, int]]) -> Iterator[bytes]:
    """`read_range` of each, in their order, several requests at once."""
    line = Line()
    return each_answer(lambda r: read_range(dataset, *r, line.pause), ranges, line.stop)


def read_whole(dataset: HubDataset, file: RemoteFile) -> Iterator[bytes]:
    """A file from its beginning, in pieces; its digest is checked after the last."""
    digest = Digest(file)
    for start in range(0, file.size, _CHUNK):
        data = read_range(dataset, file, start, min(start + _CHUNK, file.size))
        digest.update(data)
        yield data
    _check_digest(dataset, digest)


def _check_digest(dataset: HubDataset, digest: Digest) -> None:
    """Raises InputError unless `digest` has met the bytes whose digest the Hub publishes."""
    if not digest.matches:
        raise InputError(
            f"{dataset.what}: {digest.file.name} differs from the digest the Hub publishes; run the command again"
        )


def _reach(call: Callable[[], T], what: str) -> T:
    return reach(call, what, if_missing="correct the address", if_misnamed="correct the address")


def _read_source(folder: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    del kept["address"]
    return dict(kept)


def _commit(repo: str, revision: str, what: str) -> str:
    from huggingface_hub import HfApi, constants

    def ask() -> str:
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        return str(HfApi().dataset_info(repo, revision=revision, expand=["sha"], timeout=timeout).sha)

    return _reach(lambda: retrying(ask, METADATA), what)


def _list(repo: str, commit: str, path: str, address: str) -> list[RemoteFile]:
    """The files that `path` means: one, those in a folder and below, or those that fit a pattern."""
    parts = PurePosixPath(path).parts
    plain = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    is_pattern = plain < len(parts)
    if parts and not is_pattern:
        beside = {entry.path: entry for entry in _tree(repo, commit, "/".join(parts[:-1]), False, address)}
        if path not in beside:
            raise InputError(f"{address}: no such file or folder{near_matches(path, beside)}")
        if hasattr(beside[path], "blob_id"):
            return [_dataset_file(beside[path])]
    entries = _tree(repo, commit, "/".join(parts[:plain]), True, address)
    files = [_dataset_file(entry) for entry in entries if hasattr(entry, "blob_id")]
    if is_pattern:
        files = [f for f in files if _fits(PurePosixPath(f.name).parts, parts)]
    return sorted(files, key=lambda f: f.name)


def _tree(repo: str, commit: str, folder: str, recursive: bool, address: str) -> list[Any]:
    from huggingface_hub import HfApi

    list_tree = partial(HfApi().list_repo_tree, repo, folder or None, repo_type="dataset", revision=commit)
    return _reach(lambda: retrying(lambda: list(list_tree(recursive=recursive)), METADATA), address)


def _dataset_file(entry: Any) -> RemoteFile:
    in_lfs = entry.lfs is not None
    return RemoteFile(entry.path, entry.size, entry.lfs.sha256 if in_lfs else None, None if in_lfs else entry.blob_id)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern, part by part; `**` stands for any number of parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _one_form(
    files: list[RemoteFile], repo: str, commit: str, address: str
) -> tuple[str, list[RemoteFile], RemoteFile | None]:
    """The form that all readable files share, those files, and the index of token shards."""
    forms = {form: [f for f in files if f.name.endswith(form)] for form in FORMS}
    found = [form for form, members in forms.items() if members]
    if not found:
        names = ", ".join(f.name for f in files[:3]) or "nothing"
        raise InputError(f"{address} holds no {', '.join(FORMS)} file (it holds {names}); name a path that does")
    if len(found) > 1:
        raise InputError(
            f"{address} holds files of several forms ({', '.join(found)}); name one, as in .../*{found[0]}"
        )
    chosen = [f for f in forms[found[0]] if f.size]
    if not chosen:
        raise InputError(f"{address} holds empty files only; name others")
    if found[0] != ".bin":
        return found[0], chosen, None
    parent = str(PurePosixPath(chosen[0].name).parent)
    beside = _tree(repo, commit, "" if parent == "." else parent, False, address)
    indices = [_dataset_file(e) for e in beside if hasattr(e, "blob_id") and e.path.endswith(".idx")]
    return found[0], chosen, indices[0] if len(indices) == 1 else None
