"""Windows of tokens: what a model is run on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rtdyn.errors import InputError

MIN_QUERY = 3
"""Queries before this index in a window are dropped (METHODS §1)."""


@dataclass(frozen=True)
class EvaluationSet:
    """Windows of tokens, the same at every step of a run (METHODS §1)."""

    windows: np.ndarray
    """int32 (windows, T)."""
    documents: np.ndarray
    """int32 (windows,): the document each window begins in, by its place in the corpus."""
    kept: np.ndarray
    """bool (windows, T): positions whose query and target both count."""
    sha256: str

    @property
    def targets(self) -> np.ndarray:
        """int32 (windows, T): the next token; 0 in the last column, which is never kept."""
        return np.pad(self.windows[:, 1:], ((0, 0), (0, 1)))


def pack(
    documents: Iterable[tuple[int, np.ndarray]],
    length: int,
    bos: int | None,
    eos: int | None,
    enough: Callable[[int, np.ndarray, np.ndarray], bool],
) -> EvaluationSet:
    """Windows of `length` tokens from documents joined by EOS, each beginning with BOS if there is one.

    Stops at the first window after which `enough(tokens so far, window, kept)` is true, else at the end of
    the text; an incomplete last window is dropped. Raises InputError if the text fills no window.
    """
    body = length - (bos is not None)
    windows: list[np.ndarray] = []
    owners: list[int] = []
    kept: list[np.ndarray] = []
    for owner, ids in _cut(documents, body, eos):
        window = ids if bos is None else np.concatenate([[bos], ids])
        windows.append(window.astype(np.int32))
        owners.append(owner)
        kept.append(_kept(window, bos, eos))
        if enough(len(windows) * length, windows[-1], kept[-1]):
            break
    if not windows:
        raise InputError(
            f"the corpus is shorter than one window of {length} tokens; give more text or a smaller --window"
        )
    stacked = np.stack(windows)
    digest = hashlib.sha256(f"{length} {bos} {eos} ".encode() + stacked.astype("<i4").tobytes()).hexdigest()
    return EvaluationSet(stacked, np.array(owners, dtype=np.int32), np.stack(kept), digest)


def _cut(documents: Iterable[tuple[int, np.ndarray]], body: int, eos: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of exactly `body` tokens of the joined documents, each with the document it begins in."""
    rest, owner = np.empty(0, dtype=np.int64), -1
    for document, ids in documents:
        if len(rest) == 0:
            owner = document
        begins = len(rest)
        rest = np.concatenate([rest, ids] if eos is None else [rest, ids, [eos]])
        start = 0
        while len(rest) - start >= body:
            yield (owner if start < begins else document), rest[start : start + body]
            start += body
        if start > 0:
            owner = document
        rest = rest[start:]


def _kept(window: np.ndarray, bos: int | None, eos: int | None) -> np.ndarray:
    """Which queries count: from index 3 to the last but one, neither query nor target BOS or EOS."""
    special = np.isin(window, [i for i in (bos, eos) if i is not None])
    kept = np.zeros(len(window), dtype=bool)
    kept[MIN_QUERY:-1] = ~special[MIN_QUERY:-1] & ~special[MIN_QUERY + 1 :]
    return kept
