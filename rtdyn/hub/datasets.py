"""Data sets on the Hugging Face Hub: which files an address means, and ranges of their bytes.

An address is `hf://datasets/OWNER/NAME[@REVISION][/PATH]`; PATH is a file, a folder, or a pattern with `*`, `?`,
`[...]` and `**`. The commit that it stands for is asked once and then remembered, so that the same address goes on to
mean the same bytes. A data set whose branch has moved is read anew only under another revision.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from rtdyn.errors import InputError, UsageError, near_matches
from rtdyn.files import write_json
from rtdyn.git_lfs import UPLOADED_SO, is_pointer, pointer_error
from rtdyn.hub.api import pages
from rtdyn.hub.errors import reach
from rtdyn.hub.ranges import Source, Transfer, stream_range
from rtdyn.hub.remote_file import Digest, RemoteFile
from rtdyn.hub.retry import METADATA, each_answer, retrying
from rtdyn.names import HUB_SCHEME

COMPRESSED = (".gz", ".zst")
FORMS = (
    ".parquet",
    *(kind + packed for kind in (".jsonl", ".json", ".txt") for packed in ("", *COMPRESSED)),
    ".bin",
)
"""Suffixes that can be read: rows, lines of JSON, plain text, and shards of token ids."""
_SETTINGS = ".json"
"""The suffix that lines of JSON share with a repository's own settings: read where it is asked for, or alone."""
CORRECT_ADDRESS = "correct the address"
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
    def is_compressed(self) -> bool:
        """Whether its files can be read from their beginning only."""
        return self.form.endswith(COMPRESSED)

    @property
    def what(self) -> str:
        """How to name it to the user."""
        return f"{self.address} (commit {self.commit[:12]})"

    @property
    def source(self) -> Source:
        """Where its files are read: never whole in place of a range, since a file may be larger than memory."""
        kind, mend = "dataset", CORRECT_ADDRESS
        return Source(self.repo, self.commit, self.what, kind=kind, if_missing=mend, takes_whole=False)


def is_hub(source: str) -> bool:
    """Whether `source` is an address on the Hub and not a file."""
    return source.startswith(HUB_SCHEME)


def dataset_at(address: str) -> HubDataset:
    """The files and the commit that an address stands for, as they were when it was first asked.

    The answer is kept in `source.json`, in the folder that `HubDataset.folder` names; HF_TOKEN, HF_HOME, HF_ENDPOINT
    and HF_HUB_OFFLINE are respected. Raises UsageError for an address that cannot be read. Raises InputError for one
    that the Hub does not hold, or whose files are of no form, or of several.
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


def read_range(dataset: HubDataset, file: RemoteFile, start: int, stop: int, transfer: Transfer | None = None) -> bytes:
    """Bytes start <= i < stop of a file; if they are the whole file, its digest is checked.

    Raises InputError if the Hub cannot be reached, or answers with other bytes than were asked for.
    """
    data = b"".join(stream_range(dataset.source, file, start, stop, transfer or Transfer()))
    if start == 0 and is_pointer(data):
        raise pointer_error(f"{dataset.what}: {file.name}", UPLOADED_SO)
    if stop - start == file.size:
        digest = Digest(file)
        digest.update(data)
        _check_digest(dataset, digest)
    return data


def read_ranges(dataset: HubDataset, ranges: Sequence[tuple[RemoteFile, int, int]]) -> Iterator[bytes]:
    """`read_range` of each, in their order, several requests at once."""
    transfer = Transfer()
    return each_answer(lambda piece: read_range(dataset, *piece, transfer), ranges, transfer.stop)


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
    return reach(call, what, if_missing=CORRECT_ADDRESS, if_misnamed=CORRECT_ADDRESS)


def _read_source(folder: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
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
    """The files that `path` means: one, those in a folder and below, or those that fit a pattern.

    What is there under the very name is meant by it, and so are the folders that a pattern begins with.
    """
    parts = PurePosixPath(path).parts
    plain = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    is_pattern = plain < len(parts)
    if parts and not is_pattern:
        beside = _tree(repo, commit, "/".join(parts[:-1]), False, address)
        if path not in beside:
            raise InputError(f"{address}: no such file or folder{near_matches(path, beside)}")
        file = beside[path]
        if file is not None:
            return [file]
    tree = _tree(repo, commit, "/".join(parts[:plain]), True, address)
    files = [file for file in tree.values() if file is not None]
    if is_pattern and path in tree:
        files = [f for f in files if f.name == path or f.name.startswith(f"{path}/")]
    elif is_pattern:
        begins = max((n for n in range(plain + 1, len(parts)) if "/".join(parts[:n]) in tree), default=plain)
        split = ((PurePosixPath(f.name).parts, f) for f in files)
        files = [f for own, f in split if own[:begins] == parts[:begins] and _fits(own[begins:], parts[begins:])]
    return sorted(files, key=lambda f: f.name)


def _tree(repo: str, commit: str, folder: str, recursive: bool, address: str) -> dict[str, RemoteFile | None]:
    """By path: the files in a folder as the Hub describes them, and None for folders in it."""
    place = f"datasets/{repo}/tree/{commit}" + (f"/{quote(folder, safe='')}" if folder else "")

    def ask() -> dict[str, RemoteFile | None]:
        asked = pages(place, {"recursive": str(recursive), "expand": "False"})
        return {
            entry["path"]: _dataset_file(entry) if entry["type"] == "file" else None for page in asked for entry in page
        }

    return _reach(lambda: retrying(ask, METADATA), address)


def _dataset_file(entry: Mapping[str, Any]) -> RemoteFile:
    lfs = entry.get("lfs")
    return RemoteFile(entry["path"], entry["size"], lfs["oid"] if lfs else None, None if lfs else entry["oid"])


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
    present = [form for form, members in forms.items() if members]
    if len(present) > 1 and _SETTINGS in present:
        present.remove(_SETTINGS)
    if not present:
        names = ", ".join(f.name for f in files[:3]) or "nothing"
        raise InputError(f"{address} holds no {', '.join(FORMS)} file (it holds {names}); name a path that does")
    if len(present) > 1:
        raise InputError(
            f"{address} holds files of several forms ({', '.join(present)}); name one, as in .../*{present[0]}"
        )
    form = present[0]
    chosen = [f for f in forms[form] if f.size]
    if not chosen:
        raise InputError(f"{address} holds empty files only; name others")
    if form != ".bin":
        return form, chosen, None
    parent = str(PurePosixPath(chosen[0].name).parent)
    beside = _tree(repo, commit, "" if parent == "." else parent, False, address)
    indices = [file for file in beside.values() if file is not None and file.name.endswith(".idx")]
    return form, chosen, indices[0] if len(indices) == 1 else None
