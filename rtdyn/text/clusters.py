"""What of the evaluation text may be taken as independent: documents, or blocks of one document's windows.

Positions of one document share their subject, so that windows of it are no independent draws. Standard errors and
resampling take whole documents where there are enough of them. A text of few documents is cut into blocks of
consecutive windows instead, at least as long as the windows' mean surprise hangs together. That is its integrated
autocorrelation time τ = 1 + 2·Σ ρ_l, summed up to the first lag L ≥ 5τ (Sokal 1997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_DOCUMENTS = 8
"""Documents under which blocks of windows stand for independent pieces of text."""
FEW_CLUSTERS = 20
"""Clusters under which intervals are of doubtful coverage, which is said."""
TIMES_TAU = 4.0
"""Length of a block over the time beyond one window that neighbours hang together."""
MIN_BLOCKS = 20
"""Blocks that a text is cut into at least, where it has as many windows."""


@dataclass(frozen=True)
class TextClusters:
    """The independent pieces of an evaluation text."""

    index: np.ndarray
    """int64 (windows,): each window's piece, numbered from 0 in the order of their first windows."""
    unit: str
    """`documents`, or `blocks` of consecutive windows."""

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.index.max()) + 1


def text_clusters(documents: np.ndarray, surprise: np.ndarray) -> TextClusters:
    """Documents, if the text has MIN_DOCUMENTS, else blocks.

    documents: int (windows,), the document that each window begins in. surprise: float (windows,), each window's mean
    −log frequency of its targets, by which the length of blocks is chosen. No model is asked, so that all steps of a
    run share the clusters.
    """
    if len(np.unique(documents)) >= MIN_DOCUMENTS:
        return TextClusters(_numbered(documents), "documents")
    longest = max(1, len(documents) // MIN_BLOCKS)
    length = min(longest, math.ceil(1 + TIMES_TAU * (autocorrelation_time(surprise) - 1)))
    blocks = np.empty(len(documents), dtype=np.int64)
    first = 0
    for document in dict.fromkeys(documents.tolist()):
        mine = np.flatnonzero(documents == document)
        count = max(1, len(mine) // length)
        blocks[mine] = first + np.arange(len(mine)) * count // len(mine)
        first += count
    return TextClusters(_numbered(blocks), "blocks")


def autocorrelation_time(values: np.ndarray) -> float:
    """τ of a series (n,), in steps of it, at least 1; 1 for a constant one."""
    centred = values - values.mean()
    n, variance = len(values), float(centred @ centred)
    tau = 1.0
    if variance == 0:
        return tau
    for lag in range(1, n // 2):
        tau += 2 * float(centred[:-lag] @ centred[lag:]) / variance
        if lag >= 5 * tau:
            break
    return max(1.0, tau)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """int64, same shape: labels counted from 0 in the order in which they first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[inverse]
