"""A server of requests on a free port of loopback, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self


class Listening:
    """Listens from its making until `close`."""

    def __init__(self, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Nothing listens at `url` afterwards."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Served:
    """What listens while its context is open."""

    handler: ClassVar[Callable[..., BaseHTTPRequestHandler]]
    """Made with the instance before the server's own arguments."""

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        self._server = Listening(partial(self.handler, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        """For HF_ENDPOINT; once the context is closed, nothing listens there."""
        return self._server.url
