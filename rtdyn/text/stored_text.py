"""Documents that stay in their file: of a large corpus only what is measured comes into memory.

Each gives its length and slices as a str does. A file is read through once for that, a block or a line at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from rtdyn.blame import reading

LARGE = 32 * 2**20
"""Bytes of a file from which on its documents stay in it."""
BLOCK = 2**20
"""Bytes of a plain text that are decoded at once."""
_BEGINS = 0b11000000
"""The least UTF-8 byte that begins a character of several; those that go on are from 0b10000000 to it."""


class Text(Protocol):
    """What is asked of a document: a str, or one that stays in its file."""

    def __len__(self) -> int:
        """Characters."""
        ...

    def __getitem__(self, characters: slice, /) -> str:
        """Some of it."""
        ...


@dataclass
class StoredText:
    """A plain text as one document."""

    file: Path
    starts: list[int]
    """The byte that each block begins with, and the end of the file."""
    places: list[int]
    """The character that each block begins with, and their number."""
    decode: Callable[[int, bytes], str]
    """Text of the bytes that begin at a place in the file."""
    _held: tuple[int, str] = (-1, "")
    """The block read last."""

    def __len__(self) -> int:
        return self.places[-1]

    def __getitem__(self, characters: slice, /) -> str:
        start, stop, _ = characters.indices(len(self))
        first = bisect_right(self.places, start) - 1
        parts = []
        for number in range(first, len(self.starts) - 1):
            if self.places[number] >= stop:
                break
            parts.append(self._block(number)[max(0, start - self.places[number]) : stop - self.places[number]])
        return "".join(parts)

    def _block(self, number: int) -> str:
        if self._held[0] != number:
            begin, end = self.starts[number : number + 2]
            with reading(str(self.file)), self.file.open("rb") as handle:
                handle.seek(begin)
                self._held = number, self.decode(begin, handle.read(end - begin))
        return self._held[1]

    def blocks(self) -> Iterator[str]:
        """All of it, a block at a time."""
        return (self._block(number) for number in range(len(self.starts) - 1))


def stored_text(file: Path, decode: Callable[[int, bytes], str], size: int = BLOCK) -> StoredText:
    """The text of a file, read through a block at a time. decode(at, data): text of the bytes that begin at `at`."""
    starts, lengths = [0], []
    with file.open("rb") as handle:
        left = b""
        while data := left + (more := handle.read(size)):
            whole = len(data) if not more else _whole(data)
            if whole:
                lengths.append(len(decode(starts[-1], data[:whole])))
                starts.append(starts[-1] + whole)
            left = data[whole:]
    return StoredText(file, starts, [0, *accumulate(lengths)], decode)


def _whole(data: bytes) -> int:
    """How many of the bytes make whole characters, and no CR whose LF may follow."""
    end = len(data)
    while end and len(data) - end < 3 and 0b10000000 <= data[end - 1] < _BEGINS:
        end -= 1
    # what begins a character of several is left with what follows it
    end = end - 1 if end and data[end - 1] >= _BEGINS else len(data)
    return end - 1 if end and data[end - 1 : end] == b"\r" else end


@dataclass(frozen=True)
class StoredRow:
    """The text of one line of a file."""

    read: Callable[[int, int, int], str]
    """The text of the line of this number, which lies between these bytes."""
    number: int
    start: int
    stop: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, characters: slice, /) -> str:
        return self.read(self.number, self.start, self.stop)[characters]


def stored_rows(file: Path, parse: Callable[[int, int, bytes], str | None]) -> Iterator[tuple[StoredRow, str]]:
    """Each line's text that is not None, as it stays in the file and as it is now.

    parse(number, at, data): the text of line `number`, from 1, whose bytes begin at `at`.
    """

    @lru_cache(1)  # a long row is asked for in many slices
    def read(number: int, start: int, stop: int) -> str:
        with reading(str(file)), file.open("rb") as handle:
            handle.seek(start)
            return parse(number, start, handle.read(stop - start)) or ""

    start = 0
    with file.open("rb") as handle:
        for number, data in enumerate(handle, start=1):
            text = parse(number, start, data)
            if text is not None:
                yield StoredRow(read, number, start, start + len(data), len(text)), text
            start += len(data)
