"""A group of neurons with the sets of its nulls (METHODS §4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class Group:
    """A group as each half chose it, with the sets of its nulls."""

    name: str
    members: tuple[np.ndarray, np.ndarray]
    """int64, ascending: chosen on half 0 and on half 1."""
    sets: Mapping[str, tuple[np.ndarray, np.ndarray] | Undefined]
    """By null: sets (s, n) for each half's group, or why there are none."""
    own_share: float
    """Share of a matched set that are the group's own members, on average: near 1, the null can show nothing."""
    overlap: float
    """Positions that pseudo-classes share, by which the selected null is widened (`pseudo_classes.contrast`)."""

    @property
    def size(self) -> float:
        """Members, the mean of both halves' choices."""
        return float(np.mean([len(members) for members in self.members]))
