"""Common positions drawn to the rare ones' histogram of query positions (METHODS §7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtdyn.names import COMMON, RARE
from rtdyn.text.positions import MeasuredPositions

STRATUM = 16
"""Query positions in a stratum of the histogram that common positions are drawn to."""


@dataclass(frozen=True)
class MatchedPositions:
    """As many rare as common positions in every stratum of query positions; indices into the measured positions."""

    rare: np.ndarray
    """int64 (n,), ascending."""
    common: np.ndarray
    """int64 (n,), ascending."""
    rare_left_out: int
    """Rare positions whose stratum has too few common ones."""


def matched_positions(
    positions: MeasuredPositions, rng: np.random.Generator, stratum: int = STRATUM
) -> MatchedPositions:
    """Equal numbers of both classes in every stratum of `stratum` query positions, the larger class drawn from."""
    rare, common = class_pools(positions)
    strata = positions.query // stratum
    counts = np.minimum(*(np.bincount(strata[pool], minlength=strata.max(initial=0) + 1) for pool in (rare, common)))
    first, second = (_draw_by_stratum(pool, strata, counts, rng) for pool in (rare, common))
    return MatchedPositions(first, second, len(rare) - len(first))


def class_pools(positions: MeasuredPositions) -> tuple[np.ndarray, np.ndarray]:
    """Indices int64 (n,) of each class's measured positions, ascending; those of both classes count as rare."""
    rare = positions.members(RARE)
    return np.flatnonzero(rare), np.flatnonzero(positions.members(COMMON) & ~rare)


def _draw_by_stratum(pool: np.ndarray, strata: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A subset of `pool` with counts[s] members of stratum s, ascending.

    pool: indices (n,) of measured positions. strata: int (N,), each measured position's. counts: int (strata,).
    """
    order = pool[np.lexsort((rng.random(len(pool)), strata[pool]))]
    stratum = strata[order]
    place = np.arange(len(order)) - np.searchsorted(stratum, stratum)
    return np.sort(order[place < counts[stratum]])
