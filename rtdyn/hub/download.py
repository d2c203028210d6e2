"""Files of the Hub onto the disk: resumed, verified, over several connections where they are large."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from rtdyn.errors import InputError
from rtdyn.hub.errors import explained
from rtdyn.hub.repository import DOWNLOADS, Digest, RemoteFile, Revision, differs, digest_of, read_range
from rtdyn.hub.retry import CONTENT, SHORT, Patience, delay

PART = ".part"
SEGMENT = 64 * 2**20
"""Bytes of one request of a large file."""
LANES = 4
"""Segments read at once; what arrives before its turn waits in memory."""


class StoppedError(Exception):
    """The stream was closed while something was on its way."""


@dataclass(frozen=True)
class Line:
    """What every request of a stream shares."""

    stop: threading.Event = field(default_factory=threading.Event)
    """Set to end all downloads at their next chunk."""
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


def read(revision: Revision, file: RemoteFile, start: int, stop: int, line: Line) -> Iterator[bytes]:
    """Bytes start to stop of a file; after a cut connection it goes on where it was.

    Raises InputError once the Hub refuses or its answers stay out, StoppedError if the line is stopped.
    """
    tried = 0
    while start < stop:
        try:
            for data in read_range(revision, file, start, stop):
                if line.stop.is_set():
                    raise StoppedError
                start, tried = start + len(data), 0
                line.arrived(len(data))
                yield data
            if start < stop:
                raise EOFError("the answer ended early")
        except (StoppedError, InputError):
            raise
        except Exception as error:
            tried += 1
            seconds = delay(error, tried, line.patience)
            if seconds is None:
                raise explained(error, f"{revision.what}: {file.name}") or error from error
            line.pause(seconds)


def read_small(revision: Revision, file: RemoteFile, line: Line) -> bytes:
    """All of a small file, verified. Raises InputError if it comes with other bytes each time."""
    for _ in range(DOWNLOADS):
        data, digest = b"".join(read(revision, file, 0, file.size, line)), Digest(file)
        digest.update(data)
        if digest.matches:
            return data
    raise differs(revision, file)


def download(revision: Revision, file: RemoteFile, path: Path, line: Line) -> str:
    """Has the file at `path`, verified, and returns its SHA-256; an earlier part of it is gone on with.

    Raises InputError if it comes with other bytes each time, or the disk has no room.
    """
    part = path.with_name(path.name + PART)
    if path.exists():
        digest = digest_of(path, file)
        if digest.matches:
            line.arrived(file.size)
            return digest.sha256.hexdigest()
        path.unlink()
    for _ in range(DOWNLOADS):
        digest, start = Digest(file), 0
        if part.exists() and part.stat().st_size <= file.size:
            digest, start = digest_of(part, file), part.stat().st_size
        else:
            part.unlink(missing_ok=True)
        line.arrived(start)
        try:
            with part.open("ab") as handle:
                for data in _in_order(revision, file, start, file.size, line):
                    handle.write(data)
                    digest.update(data)
        except OSError as error:
            raise InputError(
                f"cannot write {part} ({error.strerror or error}); make room, or give less --cache-gb"
            ) from error
        if digest.matches:
            part.replace(path)
            return digest.sha256.hexdigest()
        part.unlink()
        line.arrived(-file.size)
    raise differs(revision, file)


def _in_order(revision: Revision, file: RemoteFile, start: int, stop: int, line: Line) -> Iterator[bytes]:
    """Bytes start to stop in order, read ahead over LANES connections."""
    if stop - start <= SEGMENT:
        yield from read(revision, file, start, stop, line)
        return
    abandoned = threading.Event()

    def lane(first: int, arriving: SimpleQueue[bytes | Exception | None]) -> None:
        try:
            for data in read(revision, file, first, min(first + SEGMENT, stop), line):
                if abandoned.is_set():
                    return
                arriving.put(data)
            arriving.put(None)
        except Exception as error:  # raised again by the reader
            arriving.put(error)

    ahead: deque[SimpleQueue[bytes | Exception | None]] = deque()
    segments = iter(range(start, stop, SEGMENT))
    try:
        while True:
            while len(ahead) < LANES and (first := next(segments, None)) is not None:
                ahead.append(SimpleQueue())
                threading.Thread(target=lane, args=(first, ahead[-1]), daemon=True).start()
            if not ahead:
                return
            arriving = ahead[0]
            while (data := arriving.get()) is not None:
                if isinstance(data, Exception):
                    raise data
                yield data
            ahead.popleft()
    finally:
        abandoned.set()
