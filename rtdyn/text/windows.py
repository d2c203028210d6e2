"""Windows of tokens: what a model is run on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.text.draw import DrawnWindow

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
    drawn: Iterable[DrawnWindow],
    length: int,
    bos: int | None,
    eos: int | None,
    enough: Callable[[int, np.ndarray, np.ndarray], bool],
) -> EvaluationSet:
    """Windows of `length` tokens, each beginning with BOS if there is one, in the order of the corpus.

    Stops drawing at the first window after which `enough(tokens so far, window, kept)` is true, else at the end of the
    text. Raises InputError if the text fills no window.
    """
    taken: list[tuple[int, int, np.ndarray]] = []
    for one in drawn:
        window = (one.ids if bos is None else np.concatenate([[bos], one.ids])).astype(np.int32)
        taken.append((one.document, one.place, window))
        if enough(len(taken) * length, window, _kept(window, bos, eos)):
            break
    if not taken:
        raise InputError(
            f"the corpus is shorter than one window of {counted(length, 'token')}; give more text or a smaller --window"
        )
    # in the order of the text, so that blocks of windows are neighbours in it
    taken.sort(key=lambda window: window[:2])
    stacked = np.stack([window for _, _, window in taken])
    kept = np.stack([_kept(window, bos, eos) for window in stacked])
    documents = np.array([document for document, _, _ in taken], dtype=np.int32)
    digest = hashlib.sha256(f"{length} {bos} {eos} ".encode() + stacked.astype("<i4").tobytes()).hexdigest()
    return EvaluationSet(stacked, documents, kept, digest)


def check_ids(evaluation: EvaluationSet, rows: int) -> None:
    """Raises InputError for a token id that a model of so many rows has none for."""
    largest = int(evaluation.windows.max())
    if largest >= rows:
        raise InputError(
            f"the evaluation text holds token id {largest} but the model has {rows:,} rows; "
            "the tokenizer belongs to another model"
        )


def _kept(window: np.ndarray, bos: int | None, eos: int | None) -> np.ndarray:
    """Which queries count: from index 3 to the last but one, neither query nor target BOS or EOS."""
    special = np.isin(window, [i for i in (bos, eos) if i is not None])
    kept = np.zeros(len(window), dtype=bool)
    kept[MIN_QUERY:-1] = ~special[MIN_QUERY:-1] & ~special[MIN_QUERY + 1 :]
    return kept
