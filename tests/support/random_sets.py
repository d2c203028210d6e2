"""Random sets of one group's size, from the neurons outside it."""

from __future__ import annotations

import numpy as np


def random_sets(members: np.ndarray, neurons: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (draws, n)."""
    outside = np.setdiff1d(np.arange(neurons), members)
    order = rng.random((draws, len(outside))).argsort(axis=1)[:, : len(members)]
    return np.sort(outside[order], axis=1)
