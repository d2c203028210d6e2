"""Servers on the loopback interface that stand where a Hub is expected and are none."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback.listening import Served


@dataclass
class OtherServer(Served):
    """Answers everything with one status, body and headers while its context is open."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: OtherServer, *arguments: Any) -> None:
        self.its = server
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.its.requests.append(self.path)
        self.send_response(self.its.status)
        for name, value in {**self.its.headers, "Content-Length": str(len(self.its.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.its.body)

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


OtherServer.handler = _Handler
