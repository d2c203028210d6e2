"""A Hugging Face Hub on the loopback interface that knows branches and the metadata of their files, but no bytes."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from loopback.listening import Served

REPO = "loopback/suite"
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?:refs|revision/(?P<revision>.+))")
REFS_A_PAGE = 1000

Branch = Mapping[str, tuple[int, str]]
"""By file name, its size and what stands for its content; files with a suffix of weights are in LFS."""


def branch(content: str, *, name: str = "model.safetensors", size: int = 1000, config: bool = True) -> Branch:
    """A branch with one file of weights."""
    return {**({"config.json": (500, "config")} if config else {}), name: (size, content)}


def sharded(*contents: str, stem: str = "pytorch_model", suffix: str = "bin") -> Branch:
    """A branch with shards of these contents."""
    total = len(contents)
    shards = {f"{stem}-{i:05d}-of-{total:05d}.{suffix}": (1000, c) for i, c in enumerate(contents, 1)}
    return {"config.json": (500, "config"), f"{stem}.{suffix}.index.json": (90, "index"), **shards}


def digest(content: str) -> str:
    """The SHA-256 that the hub publishes for a content."""
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass
class MetadataHub(Served):
    """Serves refs and descriptions while its context is open, each answer after `latency` seconds."""

    branches: Mapping[str, Branch]
    latency: float = 0.0
    answers: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)
    """By branch (or `refs`), statuses with Retry-After that come before the real answer."""
    requests: list[str] = field(default_factory=list)
    refs: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Further repositories, of which there are refs alone: by name, `branches` and `tags`."""
    at_once: int = 0
    """The most requests that were open at one time."""

    def __enter__(self) -> Self:
        self._open = 0
        return super().__enter__()

    def answer(self, path: str, page: int = 0) -> tuple[int, dict[str, str], Any]:
        """Status, headers and content for a request."""
        with self._lock:
            self._open += 1
            self.at_once = max(self.at_once, self._open)
        time.sleep(self.latency)
        with self._lock:
            self._open -= 1
            match = _API.fullmatch(path)
            target = (match["revision"] or "refs") if match else path
            self.requests.append(target)
            if self.answers.get(target):
                status, after = self.answers[target].pop(0)
                return status, {"Retry-After": after} if after else {}, {}
        if match is not None and match["repo"] in self.refs and target == "refs":
            return self._refs(path, self.refs[match["repo"]], page)
        if match is None or match["repo"] != REPO:
            return 404, {"X-Error-Code": "RepoNotFound"}, {}
        if target == "refs":
            return self._refs(path, {"branches": list(self.branches)}, page)
        if target not in self.branches:
            return 404, {"X-Error-Code": "RevisionNotFound"}, {}
        files = [_sibling(name, *info) for name, info in self.branches[target].items()]
        return 200, {}, {"id": REPO, "sha": _commit(target), "siblings": files}

    def _refs(self, path: str, names: Mapping[str, Sequence[str]], page: int) -> tuple[int, dict[str, str], Any]:
        """A page of refs, with a link to the next where there are more."""
        listed = [
            (kind, {"name": name, "ref": f"refs/{place}/{name}", "targetCommit": _commit(name)})
            for kind, place in (("branches", "heads"), ("tags", "tags"))
            for name in names.get(kind, ())
        ]
        here = listed[page * REFS_A_PAGE :][:REFS_A_PAGE]
        content = {kind: [ref for k, ref in here if k == kind] for kind in ("branches", "tags")}
        more = (
            {"Link": f'<{self.url}{path}?page={page + 1}>; rel="next"'}
            if len(listed) > (page + 1) * REFS_A_PAGE
            else {}
        )
        return 200, more, {**content, "converts": []}


def _commit(branch: str) -> str:
    return hashlib.sha1(branch.encode()).hexdigest()


def _sibling(name: str, size: int, content: str) -> dict[str, Any]:
    file = {"rfilename": name, "size": size, "blobId": hashlib.sha1(content.encode()).hexdigest()}
    if name.endswith((".safetensors", ".bin")):
        file["lfs"] = {"sha256": digest(content), "size": size, "pointerSize": 134}
    return file


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: MetadataHub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        page = int(parse_qs(asked.query).get("page", ["0"])[0])
        status, headers, content = self.hub.answer(unquote(asked.path), page)
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


MetadataHub.handler = _Handler
