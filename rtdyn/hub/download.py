"""Files of the Hub onto the disk: resumed, verified, over several connections where they are large."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

from rtdyn.errors import InputError
from rtdyn.hub.ranges import Transfer, stream_range
from rtdyn.hub.remote_file import Digest, RemoteFile, digest_of
from rtdyn.hub.repository import DOWNLOADS, Revision, differs

PART = ".part"
SEGMENT = 64 * 2**20
"""Bytes of one request of a large file."""
LANES = 4
"""Segments read at once; what arrives before its turn waits in memory."""


def read_small(revision: Revision, file: RemoteFile, transfer: Transfer) -> bytes:
    """All of a small file, verified. Raises InputError if it comes with other bytes each time."""
    for _ in range(DOWNLOADS):
        data, digest = b"".join(stream_range(revision.source, file, 0, file.size, transfer)), Digest(file)
        digest.update(data)
        if digest.matches:
            return data
    raise differs(revision, file)


def download(revision: Revision, file: RemoteFile, path: Path, transfer: Transfer) -> str:
    """Has the file at `path`, verified, and returns its SHA-256; an earlier part of it is gone on with.

    Raises InputError if it comes with other bytes each time, or the disk has no room.
    """
    part = path.with_name(path.name + PART)
    if path.exists():
        digest = digest_of(path, file)
        if digest.matches:
            transfer.arrived(file.size)
            return digest.sha256.hexdigest()
        path.unlink()
    for _ in range(DOWNLOADS):
        digest, start = Digest(file), 0
        if part.exists() and part.stat().st_size <= file.size:
            digest, start = digest_of(part, file), part.stat().st_size
        else:
            part.unlink(missing_ok=True)
        transfer.arrived(start)
        try:
            with part.open("ab") as handle:
                for data in _in_order(revision, file, start, file.size, transfer):
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
        transfer.arrived(-file.size)
    raise differs(revision, file)


def _in_order(revision: Revision, file: RemoteFile, start: int, stop: int, transfer: Transfer) -> Iterator[bytes]:
    """Bytes start to stop in order, read ahead over LANES connections."""
    if stop - start <= SEGMENT:
        yield from stream_range(revision.source, file, start, stop, transfer)
        return
    abandoned = threading.Event()

    def lane(first: int, arriving: SimpleQueue[bytes | BaseException | None]) -> None:
        try:
            for data in stream_range(revision.source, file, first, min(first + SEGMENT, stop), transfer):
                if abandoned.is_set():
                    return
                arriving.put(data)
            arriving.put(None)
        except BaseException as error:  # raised again by the reader, who would wait for ever
            arriving.put(error)

    ahead: deque[SimpleQueue[bytes | BaseException | None]] = deque()
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
                if isinstance(data, BaseException):
                    raise data
                yield data
            ahead.popleft()
    finally:
        abandoned.set()
