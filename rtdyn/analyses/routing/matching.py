"""Common positions with the rare ones' query positions, and the attention at both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rtdyn.capture.forward_pass import Capture
from rtdyn.text.positions import MeasuredPositions

STRATUM = 16
"""Query positions in a stratum of the histogram that common positions are drawn to."""


PROFILE_OFFSETS = 32
"""Keys back from the query, itself included, in a profile; queries with fewer keys before them are left out of it."""


NULL_DRAWS = 199


PERMUTATIONS = 999


BLOCKS = 32
"""Runs of consecutive windows, at most, whose labels are swapped together."""


MIN_BLOCKS = 6
"""Fewer blocks have too few sign patterns for a p below 0.05."""


MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class MatchedPositions:
    """As many rare as common positions in every stratum of query positions; indices into the measured positions."""

    rare: np.ndarray
    """int64 (n,), ascending."""
    common: np.ndarray
    """int64 (n,), ascending."""
    rare_left_out: int
    """Rare positions whose stratum has too few common ones."""


def _layers(captured: Capture) -> tuple[int, ...]:
    last = captured.anatomy.layer
    return tuple(range(last - len(captured.anatomy.attentions) + 1, last + 1))


def _attention(captured: Capture) -> Tensor:
    if captured.attention is None:
        raise ValueError("the capture was made without attention")
    return captured.attention


def matched_positions(
    positions: MeasuredPositions,
    rng: np.random.Generator,
    rare: str = "rare",
    common: str = "common",
    stratum: int = STRATUM,
) -> MatchedPositions:
    """Equal numbers of both classes in every stratum of `stratum` query positions, the larger class drawn from."""
    own, other = _pools(positions, rare, common)
    strata = positions.query // stratum
    counts = np.minimum(*(np.bincount(strata[pool], minlength=strata.max(initial=0) + 1) for pool in (own, other)))
    (first,), (second,) = (_draw(pool, strata, counts, rng) for pool in (own, other))
    return MatchedPositions(first, second, len(own) - len(first))


def _pools(positions: MeasuredPositions, rare: str, common: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of each class's positions; those of both classes count as rare."""
    own = positions.members(rare)
    return np.flatnonzero(own), np.flatnonzero(positions.members(common) & ~own)


def _draw(
    pool: np.ndarray, strata: np.ndarray, counts: np.ndarray, rng: np.random.Generator, sets: int = 1
) -> list[np.ndarray]:
    """`sets` disjoint subsets of `pool`, each with counts[s] members of stratum s, ascending."""
    order = pool[np.lexsort((rng.random(len(pool)), strata[pool]))]
    stratum = strata[order]
    place, count = np.arange(len(order)) - np.searchsorted(stratum, stratum), counts[stratum]
    return [np.sort(order[(place >= k * count) & (place < (k + 1) * count)]) for k in range(sets)]
