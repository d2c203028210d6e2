"""Compressed files, which can be read from their beginning only: gzip and Zstandard, piece by piece.

Zstandard is read with pyarrow, which reads Parquet too.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from rtdyn.blame import passes
from rtdyn.errors import InputError, brief

_GZIP = 31
"""zlib's number for a stream with a gzip header."""
_READ_AT_ONCE = 1 << 16


def unpacked(name: str, pieces: Iterable[bytes], what: str) -> Iterator[tuple[bytes, int]]:
    """The content of a file called `name` in parts, each with the bytes of the file that were taken for it.

    Members or frames follow one another. `what` names the file in the InputError for one that is damaged or cut off.
    """
    yield from _gunzipped(pieces, what) if name.endswith(".gz") else _from_zstandard(pieces, what)


def _gunzipped(pieces: Iterable[bytes], what: str) -> Iterator[tuple[bytes, int]]:
    unzip = zlib.decompressobj(_GZIP)
    for piece in pieces:
        size, content = len(piece), b""
        try:
            while piece:
                if unzip.eof:
                    unzip = zlib.decompressobj(_GZIP)
                content += unzip.decompress(piece)
                piece = unzip.unused_data
        except zlib.error as error:
            raise InputError(f"{what} is not a readable gzip file ({error}); name another file") from None
        yield content, size
    if not unzip.eof:
        raise InputError(f"{what} ends inside its gzip stream; name another file")


class _Pieces(io.RawIOBase):
    """Pieces of a file as a file, and how much of it was taken."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.rest = b""
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self.rest = piece
        data, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(data)] = data
        self.taken += len(data)
        return len(data)


def _from_zstandard(pieces: Iterable[bytes], what: str) -> Iterator[tuple[bytes, int]]:
    import pyarrow

    file, before = _Pieces(pieces), 0
    try:
        with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd") as stream:
            while content := stream.read(_READ_AT_ONCE):
                yield content, file.taken - before
                before = file.taken
    except (pyarrow.ArrowException, OSError) as error:
        if passes(error):
            raise
        if "Truncated" in str(error):
            raise InputError(f"{what} ends inside its Zstandard stream; name another file") from None
        raise InputError(f"{what} is not a readable Zstandard file ({brief(error)}); name another file") from None
