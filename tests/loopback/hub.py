"""A Hugging Face Hub on the loopback interface: a suite folder served as the branches of one repository."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from loopback.listening import Served

LFS = (".safetensors", ".bin", ".h5")
_REFS = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/refs")
_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_COMMITS = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/commits/(?P<revision>[^/]+)")
_MODELS = re.compile(r"/api/models")
_TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
_CDN = re.compile(r"/cdn/(?P<repo>[^/]+/[^/]+)/(?P<revision>[^/]+)/(?P<name>.+)")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK = 16 * 1024
_LATE = 0.05
"""Seconds for which a link's buffers keep it busy though nobody writes."""
SIGNATURE = "Signature=not-to-be-shown"
"""In the addresses that a CDN's redirects lead to."""


@dataclass(frozen=True)
class Request:
    """A request as the hub understood it."""

    method: str
    target: str
    """`branch` for its description, `branch/file` for a file, `cdn/branch/file`, the path itself for anything else."""
    range: str | None = None
    authorization: str | None = None
    at: float = field(default=0.0, compare=False)
    """Seconds since the hub opened."""

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the first `times` requests whose `METHOD target` fits the pattern."""

    pattern: str
    times: int = 1
    status: int | None = None
    """Answer with this status and a page that is no answer of a Hub's."""
    code: str | None = None
    """X-Error-Code of that answer."""
    retry_after: int | None = None
    cut_after: int | None = None
    """Close the connection after this many bytes of the file."""
    reset: bool = False
    """Close it by a reset, as a broken network does."""
    wrong_bytes: bool = False
    """Send other bytes than the file's, as many."""
    stall: bool = False
    """Never answer."""
    stall_after: int | None = None
    """Send this many bytes of the file and then no more, with the connection open."""
    short_by: int = 0
    """Send a file that is shorter by so many bytes, as if it were whole; negative for longer."""


@dataclass(frozen=True)
class HubFile:
    """A file of a branch and what the Hub publishes of it."""

    path: Path
    size: int
    blob_id: str
    sha256: str | None
    """Of files in LFS."""

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id


@dataclass
class LoopbackHub(Served):
    """Serves the folders in `folder`, and its own files as the branch `main`, while its context is open.

    Branches are read when it opens. It records every request in `requests`. Attributes may be changed
    while it runs: a branch in `hidden` is not found, `faults` says what goes wrong, and `branches` what is published
    of each file, which need not be true.
    """

    folder: Path
    repo: str = "loopback/suite"
    hidden: set[str] = field(default_factory=set)
    tags: set[str] = field(default_factory=set)
    """Folders that are served as tags and no branches."""
    commits: dict[str, str] = field(default_factory=dict)
    """Folders that are served as commits of main, by their titles, oldest first."""
    repositories: dict[str, str] = field(default_factory=dict)
    """Folders that are served as the branch main of a further repository, by its name."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    latency: float = 0.0
    """Seconds before each answer."""
    bandwidth: float | None = None
    """Bytes a second of all files together, whatever the number of connections."""
    cdn: bool = False
    """Whether files in LFS are answered by a redirect to a signed address."""
    token: str | None = None
    """Without which nothing is answered but what the CDN has."""
    branches: dict[str, dict[str, HubFile]] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self._opened = time.monotonic()
        self._link_free = 0.0
        self.branches = {child.name: _branch(child, "**/*") for child in self.folder.iterdir() if child.is_dir()}
        self.branches["main"] = _branch(self.folder, "*")
        self._met: dict[Fault, int] = {}
        self._closing = threading.Event()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        super().__exit__(kind, error, traceback)

    @property
    def cdn_url(self) -> str:
        """The same server by another name, so that clients take it for another."""
        return self._server.url.replace("127.0.0.1", "localhost")

    def commit(self, branch: str) -> str:
        """The commit a branch stands for: 40 hex digits that change with its content."""
        content = [branch, *(f"{name} {file.etag}" for name, file in sorted(self.branches[branch].items()))]
        return hashlib.sha1("\n".join(content).encode()).hexdigest()

    def branch_of(self, revision: str) -> str | None:
        """The branch with this name or commit, if it is there."""
        for branch in self.branches.keys() - self.hidden:
            if revision in (branch, self.commit(branch)):
                return branch
        return None

    def fault(self, request: Request) -> Fault | None:
        """The first fault that still has to happen to such a request."""
        with self._lock:
            for fault in self.faults:
                met = self._met.get(fault, 0)
                if met < fault.times and re.fullmatch(fault.pattern, str(request)):
                    self._met[fault] = met + 1
                    return fault
        return None

    def misbehave(self, *faults: Fault) -> None:
        """Forgets what was requested and what went wrong, and begins with these faults."""
        with self._lock:
            self.faults, self._met = list(faults), {}
            self.requests.clear()

    def met(self, fault: Fault) -> int:
        """How often the fault has happened."""
        return self._met.get(fault, 0)

    @property
    def faults_met(self) -> int:
        """Requests that a fault has happened to."""
        return sum(self._met.values())

    def seconds(self) -> float:
        """Since it opened."""
        return time.monotonic() - self._opened

    def pace(self, size: int) -> None:
        """Waits until the link has carried so many further bytes."""
        if self.bandwidth is None:
            return
        with self._lock:
            self._link_free = max(self._link_free, self.seconds() - _LATE) + size / self.bandwidth
            until = self._link_free
        self._closing.wait(max(0.0, until - self.seconds()))

    def wait_until_closed(self) -> None:
        self._closing.wait()


def _branch(folder: Path, pattern: str) -> dict[str, HubFile]:
    return {
        path.relative_to(folder).as_posix(): _hub_file(path) for path in sorted(folder.glob(pattern)) if path.is_file()
    }


def _hub_file(path: Path) -> HubFile:
    data = path.read_bytes()
    blob_id = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return HubFile(path, len(data), blob_id, hashlib.sha256(data).hexdigest() if path.suffix in LFS else None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: LoopbackHub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def handle(self) -> None:
        # a client may leave at any time
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        match = next(
            filter(None, (kind.fullmatch(path) for kind in (_REFS, _INFO, _COMMITS, _MODELS, _TREE, _CDN, _RESOLVE))),
            None,
        )
        kind, given = (match.re, match.groupdict()) if match else (None, {})
        ours = given.get("repo") == self.hub.repo and "revision" in given
        branch = self.hub.branch_of(given["revision"]) if ours else None
        if given.get("repo") in self.hub.repositories and given.get("revision") in self._names_of(given["repo"]):
            branch = self.hub.repositories[given["repo"]]
        name = given.get("name")
        target = "/".join(filter(None, ("cdn" if kind is _CDN else None, branch, name))) if branch else path
        authorization = self.headers["Authorization"]
        request = Request(self.command, target, self.headers["Range"], authorization, self.hub.seconds())
        self.hub.requests.append(request)
        time.sleep(self.hub.latency)
        fault = self.hub.fault(request)
        if fault and fault.stall:
            self.hub.wait_until_closed()
            self.close_connection = True
        elif fault and fault.status is not None:
            headers = {"X-Error-Code": fault.code, "Retry-After": fault.retry_after}
            present = {name: str(value) for name, value in headers.items() if value is not None}
            self._answer(fault.status, b"<html>not a Hub's answer</html>", present)
        elif self.hub.token is not None and kind is not _CDN and authorization != f"Bearer {self.hub.token}":
            self._answer(HTTPStatus.UNAUTHORIZED, b"Invalid credentials", {"X-Error-Message": "Invalid credentials"})
        elif kind is _MODELS:
            owner, words = (parse_qs(urlsplit(self.path).query).get(key, [""])[0] for key in ("author", "search"))
            named = [n for n in self.hub.repositories if n.startswith(f"{owner}/") and words in n]
            self._answer_json([{"id": name, "modelId": name} for name in named])
        elif match is None or given.get("repo") not in (self.hub.repo, *self.hub.repositories):
            self._refuse("RepoNotFound")
        elif kind is _REFS:
            self._answer_json(self._refs())
        elif branch is None:
            self._refuse("RevisionNotFound")
        elif kind is _COMMITS:
            listed = [{"id": self.hub.commit(f), "title": title} for title, f in self.hub.commits.items()]
            self._answer_json(listed[::-1])
        elif name is None:
            self._answer_json(self._tree(branch) if kind is _TREE else self._description(branch))
        elif name not in self.hub.branches[branch]:
            self._refuse("EntryNotFound", {"X-Repo-Commit": self.hub.commit(branch)})
        elif self.hub.cdn and kind is not _CDN and self.hub.branches[branch][name].sha256:
            file, place = self.hub.branches[branch][name], f"{self.hub.cdn_url}/cdn/{self.hub.repo}/{branch}/{name}"
            redirect = {"Location": f"{place}?{SIGNATURE}", **self._describing(file, self.hub.commit(branch))}
            self._answer(HTTPStatus.FOUND, b"", redirect)
        else:
            self._send_file(self.hub.branches[branch][name], self.hub.commit(branch), fault)

    def _answer_json(self, content: Any) -> None:
        self._answer(HTTPStatus.OK, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refs(self) -> dict[str, Any]:
        kinds: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
        for name in sorted(self.hub.branches.keys() - self.hub.hidden):
            kind, place = ("tags", "tags") if name in self.hub.tags else ("branches", "heads")
            kinds[kind].append({"name": name, "ref": f"refs/{place}/{name}", "targetCommit": self.hub.commit(name)})
        return kinds

    def _names_of(self, repo: str) -> tuple[str, str]:
        """What the branch main of a further repository is asked for by: its name and its commit."""
        return "main", self.hub.commit(self.hub.repositories[repo])

    def _tree(self, branch: str) -> list[dict[str, Any]]:
        entries = []
        for name, file in self.hub.branches[branch].items():
            lfs = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.sha256 else {}
            entries.append({"type": "file", "path": name, "oid": file.blob_id, "size": file.size, **lfs})
        return entries

    def _description(self, branch: str) -> dict[str, Any]:
        siblings = []
        for name, file in self.hub.branches[branch].items():
            lfs = {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if file.sha256 else {}
            siblings.append({"rfilename": name, "size": file.size, "blobId": file.blob_id, **lfs})
        return {"id": self.hub.repo, "sha": self.hub.commit(branch), "siblings": siblings}

    def _describing(self, file: HubFile, commit: str) -> dict[str, str]:
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file.sha256:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        return headers

    def _send_file(self, file: HubFile, commit: str, fault: Fault | None) -> None:
        data = file.path.read_bytes()
        if fault and fault.wrong_bytes:
            data = bytes(byte ^ 1 for byte in data)
        if fault and fault.short_by:
            data = (data + bytes(max(0, -fault.short_by)))[: len(data) - fault.short_by]
        headers = self._describing(file, commit)
        status = HTTPStatus.OK
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or ""):
            start, stop = int(wanted[1]), int(wanted[2] or file.size - 1) + 1
            status, data = HTTPStatus.PARTIAL_CONTENT, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{file.size}"
        self._answer(status, data, headers, fault)

    def _refuse(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(HTTPStatus.NOT_FOUND, b"", {"X-Error-Code": code, **(headers or {})})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = fault.cut_after if fault else None
        if fault and fault.stall_after is not None:
            self._send(body[: fault.stall_after])
            self.hub.wait_until_closed()
            self.close_connection = True
            return
        self._send(body[:cut])
        if fault and cut is not None:
            self.close_connection = True
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                self.connection.close()

    def _send(self, body: bytes) -> None:
        if self.hub.bandwidth is None:
            self.wfile.write(body)
            return
        for start in range(0, len(body), _CHUNK):
            chunk = body[start : start + _CHUNK]
            self.hub.pace(len(chunk))
            self.wfile.write(chunk)


LoopbackHub.handler = _Handler
