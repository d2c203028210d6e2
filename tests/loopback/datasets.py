"""Data sets of a Hugging Face Hub on the loopback interface: descriptions, trees, and ranges of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback.listening import Served

LFS = (".parquet", ".bin", ".gz", ".zst")
_INFO = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_TREE = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<name>[^/]+))?")
_RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Trouble:
    """What goes wrong with the next `times` requests whose `PATH RANGE` the pattern is found in."""

    pattern: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Close the connection after this many bytes."""
    wrong_bytes: bool = False
    ignore_range: bool = False


@dataclass
class LoopbackDatasets(Served):
    """Serves what `put` was given while its context is open, and records each request as (name, range)."""

    requests: list[tuple[str, str | None]] = field(default_factory=list)
    connections: int = 0
    """How many were opened."""
    troubles: list[Trouble] = field(default_factory=list)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)

    def put(self, repo: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Makes `files` the content of a branch; returns the commit."""
        digests = [f"{name} {hashlib.sha1(data).hexdigest()}" for name, data in sorted(files.items())]
        commit = hashlib.sha1("\n".join([repo, *digests]).encode()).hexdigest()
        self.commits[f"{repo}@{commit}"] = dict(files)
        self.branches[repo, branch] = commit
        return commit

    def trouble(self, request: str) -> Trouble | None:
        """The first trouble that still has to happen to such a request."""
        with self._lock:
            for trouble in self.troubles:
                if trouble.times > 0 and re.search(trouble.pattern, request):
                    trouble.times -= 1
                    return trouble
        return None

    def commit_of(self, repo: str, revision: str) -> str | None:
        """The commit of a branch or of itself, None if there is none."""
        if f"{repo}@{revision}" in self.commits:
            return revision
        return self.branches.get((repo, revision))


def _entry(name: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": oid}
    if name.endswith(LFS):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _tree(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = PurePosixPath(folder).parts
    found: dict[str, dict[str, Any]] = {}
    for name, data in files.items():
        parts = PurePosixPath(name).parts
        if parts[: len(prefix)] != prefix or len(parts) == len(prefix):
            continue
        for depth in range(len(prefix) + 1, len(parts) if recursive else min(len(parts), len(prefix) + 2)):
            path = "/".join(parts[:depth])
            found.setdefault(path, {"type": "directory", "path": path, "oid": "0" * 40})
        if recursive or len(parts) == len(prefix) + 1:
            found[name] = _entry(name, data)
    return list(found.values())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # one write an answer: two make the kernel wait for an acknowledgement in between
    wbufsize = -1

    def __init__(self, hub: LoopbackDatasets, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def setup(self) -> None:
        self.hub.connections += 1
        super().setup()

    def handle(self) -> None:
        # a client may leave at any time
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        match = _INFO.fullmatch(address.path) or _TREE.fullmatch(address.path) or _RESOLVE.fullmatch(address.path)
        asked = match.groupdict() if match else {}
        name = unquote(asked.get("name") or "")
        repo = asked.get("repo", "")
        self.hub.requests.append((name or address.path, self.headers["Range"]))
        trouble = self.hub.trouble(f"{address.path} {self.headers['Range']}")
        commit = self.hub.commit_of(repo, unquote(asked.get("revision", "")))
        if trouble and trouble.status is not None:
            self._answer(trouble.status, b"<html>trouble</html>", trouble.headers)
        elif not any(repo == known for known, _ in self.hub.branches):
            self._refuse("RepoNotFound")
        elif commit is None:
            self._refuse("RevisionNotFound")
        elif _INFO.fullmatch(address.path):
            self._answer(HTTPStatus.OK, json.dumps({"id": repo, "sha": commit}).encode())
        elif _TREE.fullmatch(address.path):
            recursive = parse_qs(address.query).get("recursive", ["false"])[0].lower() in ("true", "1")
            tree = _tree(self.hub.commits[f"{repo}@{commit}"], name, recursive)
            if name and not tree:
                self._refuse("EntryNotFound")
            else:
                self._answer(HTTPStatus.OK, json.dumps(tree).encode())
        elif name not in self.hub.commits[f"{repo}@{commit}"]:
            self._refuse("EntryNotFound")
        else:
            self._send(self.hub.commits[f"{repo}@{commit}"][name], trouble)

    def _send(self, data: bytes, trouble: Trouble | None) -> None:
        size = len(data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if wanted is None or (trouble and trouble.ignore_range):
            self._answer(HTTPStatus.OK, data)
            return
        data = data[int(wanted[1]) : int(wanted[2]) + 1]
        if trouble and trouble.wrong_bytes:
            data = bytes(byte ^ 1 for byte in data)
        place = {"Content-Range": f"bytes {wanted[1]}-{int(wanted[1]) + len(data) - 1}/{size}"}
        self._answer(HTTPStatus.PARTIAL_CONTENT, data, place, trouble.cut_after if trouble else None)

    def _refuse(self, code: str) -> None:
        self._answer(HTTPStatus.NOT_FOUND, b"", {"X-Error-Code": code})

    def _answer(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, cut_after: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut_after])
        if cut_after is not None:
            self.close_connection = True


LoopbackDatasets.handler = _Handler
