"""A Hugging Face Hub on the loopback interface: a suite folder served as the branches of one repository."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".bin", ".h5")
_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Request:
    """A request as the hub understood it."""

    method: str
    target: str
    """`branch` for its description, `branch/file` for a file, the path itself for anything else."""
    range: str | None = None

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
class LoopbackHub:
    """Serves the folders in `folder`, and its own files as the branch `main`, while its context is open.

    Branches are read when it opens. It records every request in `requests`. Attributes may be changed
    while it runs: a branch in `hidden` is not found, and `faults` says what goes wrong.
    """

    folder: Path
    repo: str = "loopback/suite"
    hidden: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    branches: dict[str, dict[str, HubFile]] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self.branches = {child.name: _branch(child, "**/*") for child in self.folder.iterdir() if child.is_dir()}
        self.branches["main"] = _branch(self.folder, "*")
        self._lock = threading.Lock()
        self._met: dict[Fault, int] = {}
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """For HF_ENDPOINT; once the hub is closed, nothing listens there."""
        return f"http://127.0.0.1:{self._server.server_port}"

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
        match = _INFO.fullmatch(path) or _RESOLVE.fullmatch(path)
        branch = self.hub.branch_of(match["revision"]) if match and match["repo"] == self.hub.repo else None
        name = match.groupdict().get("name") if match else None
        target = "/".join(filter(None, (branch, name))) if branch else path
        request = Request(self.command, target, self.headers["Range"])
        self.hub.requests.append(request)
        fault = self.hub.fault(request)
        if fault and fault.stall:
            self.hub.wait_until_closed()
            self.close_connection = True
        elif fault and fault.status is not None:
            headers = {"X-Error-Code": fault.code, "Retry-After": fault.retry_after}
            given = {name: str(value) for name, value in headers.items() if value is not None}
            self._answer(fault.status, b"<html>not a Hub's answer</html>", given)
        elif match is None or match["repo"] != self.hub.repo:
            self._refuse("RepoNotFound")
        elif branch is None:
            self._refuse("RevisionNotFound")
        elif name is None:
            self._answer(HTTPStatus.OK, self._description(branch), {"Content-Type": "application/json"})
        elif name not in self.hub.branches[branch]:
            self._refuse("EntryNotFound", {"X-Repo-Commit": self.hub.commit(branch)})
        else:
            self._send_file(self.hub.branches[branch][name], self.hub.commit(branch), fault)

    def _description(self, branch: str) -> bytes:
        siblings = []
        for name, file in self.hub.branches[branch].items():
            lfs = {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}} if file.sha256 else {}
            siblings.append({"rfilename": name, "size": file.size, "blobId": file.blob_id, **lfs})
        return json.dumps({"id": self.hub.repo, "sha": self.hub.commit(branch), "siblings": siblings}).encode()

    def _send_file(self, file: HubFile, commit: str, fault: Fault | None) -> None:
        data = file.path.read_bytes()
        if fault and fault.wrong_bytes:
            data = bytes(byte ^ 1 for byte in data)
        headers = {"ETag": f'"{file.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file.sha256:
            headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
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
        self.wfile.write(body[:cut])
        if fault and cut is not None:
            self.close_connection = True
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                self.connection.close()
