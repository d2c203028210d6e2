"""Bytes of files on the Hub by ranges: gone on with after a cut connection, tried again, stopped from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import PARTIAL_CONTENT

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.hub.errors import LEAVE_OUT, explained
from rtdyn.hub.remote_file import RemoteFile
from rtdyn.hub.retry import CONTENT, SHORT, Patience, delay


class StoppedError(Exception):
    """The transfer was stopped while something was on its way."""


@dataclass(frozen=True)
class Transfer:
    """What all requests of one transfer share."""

    stop: threading.Event = field(default_factory=threading.Event)
    """Set to end all of them at their next chunk."""
    patience: Patience = CONTENT
    arrived: Callable[[int], None] = lambda _: None
    """Told the bytes that came, and negative ones where a file begins anew."""

    def pause(self, seconds: float) -> None:
        """Waits before another try. Raises StoppedError."""
        until = time.monotonic() + seconds
        while not self.stop.wait(min(SHORT, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                return
        raise StoppedError


@dataclass(frozen=True)
class Source:
    """A repository at one commit, as its files are asked for and spoken of."""

    repo: str
    commit: str
    what: str
    """How to name it to the user."""
    subfolder: str = ""
    """The folder that the files are in."""
    kind: str = "model"
    """The Hub's type of repository: `model` or `dataset`."""
    if_missing: str = LEAVE_OUT
    """How to mend a file that is not there."""
    takes_whole: bool = True
    """Whether the whole file is read through where a server answers a range with it; else that is refused."""


def stream_range(source: Source, file: RemoteFile, start: int, stop: int, transfer: Transfer) -> Iterator[bytes]:
    """Bytes start <= i < stop of a file; after a cut connection it goes on where it was.

    Raises InputError once the Hub refuses or its answers stay out, StoppedError if the transfer is stopped.
    """
    tried = 0
    while start < stop:
        try:
            for data in _request(source, file, start, stop):
                if transfer.stop.is_set():
                    raise StoppedError
                start, tried = start + len(data), 0
                transfer.arrived(len(data))
                yield data
            if start < stop:
                raise EOFError("the answer ended early")
        except (StoppedError, InputError):
            raise
        except Exception as error:
            tried += 1
            seconds = delay(error, tried, transfer.patience)
            if seconds is None:
                raise explained(error, f"{source.what}: {file.name}", source.if_missing) or error from error
            transfer.pause(seconds)


def _request(source: Source, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    """Bytes of a file as they arrive, over one request; it may end early, by an error or without one.

    Raises what the client raises, and InputError for a whole file that the source does not take.
    """
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    folder = source.subfolder or None
    url = hf_hub_url(source.repo, file.name, subfolder=folder, repo_type=source.kind, revision=source.commit)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
        if answer.is_error:
            answer.read()
        hf_raise_for_status(answer)
        in_part, ours = answer.status_code == PARTIAL_CONTENT, f"bytes {start}-"
        if in_part and not answer.headers.get("content-range", ours).startswith(ours):
            return
        if not in_part and not source.takes_whole and stop - start < file.size:
            raise InputError(
                f"{source.what}: {file.name}: asked for {counted(stop - start, 'byte')} from {start:,}, "
                "got the whole file; "
                "run the command again, or set HF_ENDPOINT to a server that answers ranges"
            )
        skip, left = 0 if in_part else start, stop - start
        # an answer that is read to its end leaves its connection to the next request
        to_end = in_part and answer.headers.get("content-length") == str(left)
        for chunk in answer.iter_raw():
            data = chunk[skip : skip + left]
            skip -= min(skip, len(chunk))
            left -= len(data)
            if data:
                yield data
            if not left and not to_end:
                return
