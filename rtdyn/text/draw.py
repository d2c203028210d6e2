"""Which windows of a corpus are measured: random ones of the whole of it, from as many documents as may be.

Documents are cut into stretches of a few windows' length. So a document of any size costs no more than what is taken of
it. Stretches come in random order by their length and are encoded as they come. Each gives windows of its tokens one at
a time, so that every window of the corpus has an equal chance (successive sampling). Random times that are exponential
with the length as rate put stretches into this order. Windows of one document are no independent draws. So while few of
the documents have given any, none gives a second one. Of a large corpus, all windows are of documents of their own.
What is too short for a window is joined, by EOS, with what else is.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rtdyn.text.stored_text import Text
from rtdyn.text.tokenizer import Tokenizer

CHARACTERS_PER_TOKEN = 32
"""Characters of a stretch for each token of a window: several windows of ordinary text, one at least of any."""
ONE_EACH = 0.05
"""Share of the documents that give one window each before any gives a second; beyond it, long ones would be missed."""
FROM_A_BLOCK = 0.5
"""Windows drawn of a block of documents before the next one is read, over the number of its documents."""
REACH = 256
"""Characters within which a stretch's end is put before a space."""


@dataclass(frozen=True)
class DrawnWindow:
    """A window's tokens, BOS apart, and where they begin."""

    document: int
    """Its place in the corpus."""
    place: int
    """Of the window's first character in the document, to within its stretch."""
    ids: np.ndarray
    """int64 (body,)."""


@dataclass(order=True)
class _Piece:
    """Text, or tokens of it that make one window, waiting for their turn."""

    time: float
    document: int = field(compare=False)
    place: int = field(compare=False)
    end: int = field(compare=False, default=0)
    text: Text = field(compare=False, default="")
    """The whole document, of which this is a part."""
    ids: np.ndarray | None = field(compare=False, default=None)


class _Draw:
    """Pieces of text by their random times, and the short ones that wait to be joined."""

    def __init__(self, tokenizer: Tokenizer, body: int, eos: int | None, rng: np.random.Generator) -> None:
        self.tokenizer, self.body, self.eos, self.rng = tokenizer, body, eos, rng
        self.short: list[np.ndarray] = []
        self.short_from: tuple[int, int] = (0, 0)
        self.joined = 0
        self.rests: list[tuple[int, int, np.ndarray]] = []

    def from_block(self, pieces: list[_Piece], documents: int) -> Iterator[DrawnWindow]:
        """The first windows of a block's pieces; what is left stays in `pieces`, a heap."""
        seen: set[int] = set()
        again: list[_Piece] = []
        taken = 0
        while pieces and taken < FROM_A_BLOCK * documents:
            if again and len(seen) >= ONE_EACH * documents:
                for piece in again:
                    heapq.heappush(pieces, piece)
                again = []
            piece = heapq.heappop(pieces)
            if piece.document in seen and len(seen) < ONE_EACH * documents:
                again.append(piece)
                continue
            seen.add(piece.document)
            taken += 1
            yield from self.windows(piece, pieces)
        for piece in again:
            heapq.heappush(pieces, piece)

    def windows(self, piece: _Piece, pieces: list[_Piece]) -> Iterator[DrawnWindow]:
        """The window of a piece; those it has beside are pushed to `pieces`, to come later."""
        if piece.ids is not None:
            yield DrawnWindow(piece.document, piece.place, piece.ids)
            return
        text = piece.text[piece.place : piece.end]
        encoded = self.tokenizer.encode([text])[0]
        count = len(encoded) // self.body
        if count == 0:
            yield from self._join(piece.document, piece.place, encoded)
        else:
            yield self._cut(piece, encoded, count, pieces)

    def _cut(self, piece: _Piece, encoded: np.ndarray, count: int, pieces: list[_Piece]) -> DrawnWindow:
        """One window of an encoded stretch at random; the others get their times, ends too short for one wait."""
        first = int(self.rng.integers(len(encoded) - count * self.body + 1))
        starts = first + self.body * self.rng.permutation(count)
        per_token = (piece.end - piece.place) / len(encoded)
        places = piece.place + (starts * per_token).astype(np.int64)
        times = piece.time + self.rng.exponential(size=count - 1) / (self.body * per_token)
        for time, start, place in zip(times.tolist(), starts[1:].tolist(), places[1:].tolist(), strict=True):
            ids = encoded[start : start + self.body]
            heapq.heappush(pieces, _Piece(time, piece.document, place, ids=ids))
        last = first + count * self.body
        for start, rest in ((0, encoded[:first]), (last, encoded[last:])):
            if len(rest):
                self.rests.append((piece.document, piece.place + int(start * per_token), rest))
        return DrawnWindow(piece.document, int(places[0]), encoded[starts[0] : starts[0] + self.body])

    def _join(self, document: int, place: int, ids: np.ndarray) -> Iterator[DrawnWindow]:
        """Adds a short piece to those that wait; a window once they fill one, whose surplus is dropped."""
        if not self.short:
            self.short_from = document, place
        self.short.append(ids if self.eos is None else np.append(ids, self.eos))
        self.joined += len(self.short[-1])
        if self.joined >= self.body:
            joined = np.concatenate(self.short)[: self.body]
            self.short, self.joined = [], 0
            yield DrawnWindow(*self.short_from, joined)

    def ends(self) -> Iterator[DrawnWindow]:
        """Windows joined of the ends of stretches, once there is nothing else."""
        for place in self.rng.permutation(len(self.rests)):
            yield from self._join(*self.rests[place])


def draw_windows(
    blocks: Iterable[Sequence[Text]], tokenizer: Tokenizer, body: int, eos: int | None, rng: np.random.Generator
) -> Iterator[DrawnWindow]:
    """Windows of `body` tokens of a corpus that comes in blocks of documents, none twice, until it is used up.

    Each block gives its first windows in turn; what is left of all blocks follows in random order.
    """
    draw = _Draw(tokenizer, body, eos, rng)
    left: list[_Piece] = []
    documents = 0
    for texts in blocks:
        pieces = _pieces(texts, documents, CHARACTERS_PER_TOKEN * body, rng)
        documents += len(texts)
        yield from draw.from_block(pieces, len(texts))
        left += pieces
    heapq.heapify(left)
    while left:
        yield from draw.windows(heapq.heappop(left), left)
    yield from draw.ends()


def _pieces(texts: Sequence[Text], first: int, size: int, rng: np.random.Generator) -> list[_Piece]:
    """Stretches of documents, a heap by their times. first: the place of the first document in the corpus."""
    pieces = []
    for number, text in enumerate(texts, start=first):
        ends = stretch_ends(text, size)
        times = rng.exponential(size=len(ends))
        for start, end, time in zip([0, *ends[:-1]], ends, times.tolist(), strict=True):
            pieces.append(_Piece(time / max(1, end - start), number, start, end, text))
    heapq.heapify(pieces)
    return pieces


def stretch_ends(text: Text, size: int) -> list[int]:
    """Where a text is cut into stretches of nearly equal length, at most `size` + REACH, before spaces where it can."""
    count = max(1, math.ceil(len(text) / size))
    ends = []
    for k in range(1, count):
        at = k * len(text) // count
        near = text[at : at + REACH]
        ends.append(at + min((i for i in map(near.find, (" ", "\n")) if i >= 0), default=0))
    return [*ends, len(text)]
