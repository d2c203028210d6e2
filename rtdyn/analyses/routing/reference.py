"""Sets of positions beside common positions at the same places in their windows (METHODS §7).

Attention depends on the query's place. So a set of n positions is held against all common positions outside it, each
stratum of places weighing as much as in the set. The null is that of METHODS §3(d). Pseudo-classes of common positions
take the rare class's place, with its histogram of places and its repeats of types.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.routing.matching import STRATUM, class_pools
from rtdyn.text.positions import MeasuredPositions


@dataclass(frozen=True)
class PseudoSets:
    """The pseudo-classes that stand for the rare class."""

    members: np.ndarray
    """bool (draws, N)."""
    overlap: float
    """Share of positions that two of them have in common (`pseudo_classes.overlap`)."""


@dataclass(frozen=True)
class Reference:
    """The rare class, then each pseudo-class, beside the common positions of its places, as weights of r positions."""

    rows: np.ndarray
    """int64 (r,): the positions, among the measured ones, that any weight is given to."""
    own: np.ndarray
    """float64 (1 + draws, r): 1/n on the set's n positions."""
    common: np.ndarray
    """float64 (1 + draws, r): weights of common positions outside the set; they sum to 1."""
    stratum: np.ndarray
    """int64 (r,): each position's stratum of places."""
    cluster: np.ndarray
    """int64 (r,): the independent piece of text of each, from 0."""
    n: int
    """Positions of the rare class."""
    left_out: int
    """Rare positions in whose stratum no common one lies."""

    @property
    def clusters(self) -> int:
        """Independent pieces of text that hold rare positions."""
        return len(np.unique(self.cluster[self.own[0] > 0]))

    def residuals(self, values: np.ndarray, own: np.ndarray, common: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each cluster adds to the errors of the rare class's means own (K,) and common (K,); float64 (g, K) each.

        values: (r, K). To first order (delta method); that the rare class's strata are themselves a draw counts in
        the error of `common`.
        """
        at, beside = self.own[0], self.common[0]
        size = int(self.stratum.max(initial=0)) + 1
        sums, weight = np.zeros((size, values.shape[1])), np.zeros(size)
        np.add.at(sums, self.stratum, beside[:, None] * values)
        np.add.at(weight, self.stratum, beside)
        expected = (sums / np.where(weight > 0, weight, 1)[:, None])[self.stratum]
        of_common = at[:, None] * (expected - common) + beside[:, None] * (values - expected)
        by_cluster = np.zeros((2, int(self.cluster.max(initial=0)) + 1, values.shape[1]))
        np.add.at(by_cluster[0], self.cluster, at[:, None] * (values - own))
        np.add.at(by_cluster[1], self.cluster, of_common)
        return by_cluster[0], by_cluster[1]

    def without(self, cluster: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights (r,), (r,) of the rare class and of common positions on the text without one cluster."""
        left = self.cluster != cluster
        own = self.own[:1] * left
        rare, pool = own > 0, (self.common[:1] > 0) & left
        first, second = _weights(rare, pool[0], self.stratum)
        return first[0], second[0]


def reference(
    positions: MeasuredPositions,
    cluster: np.ndarray,
    pseudo: PseudoSets | None,
    least_query: int = 0,
    stratum: int = STRATUM,
) -> Reference:
    """Weights over the measured positions whose query is at `least_query` or later.

    cluster: int (windows,), the independent piece of text that each window is of. Positions of a set in whose stratum
    no common position is left are dropped.
    """
    rare, common = class_pools(positions)
    rows = np.sort(np.concatenate([rare, common]))
    rows = rows[positions.query[rows] >= least_query]
    is_rare = np.isin(rows, rare)
    members = is_rare[None] if pseudo is None else np.concatenate([is_rare[None], pseudo.members[:, rows]])
    strata = np.unique(positions.query[rows] // stratum, return_inverse=True)[1]
    own, beside = _weights(members, ~is_rare, strata)
    labels = np.unique(cluster[positions.window[rows]], return_inverse=True)[1]
    kept = int((own[0] > 0).sum())
    return Reference(rows, own, beside, strata, labels, kept, int(is_rare.sum()) - kept)


def _weights(members: np.ndarray, pool: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 (k, r) twice: of sets members (k, r), and of the flagged pool (r,) outside each, stratum by stratum."""
    own, common = np.zeros((2, *members.shape))
    indicator = strata[:, None] == np.arange(strata.max(initial=0) + 1)
    outside = pool & ~members
    available, wanted = (flags.astype(np.float64) @ indicator for flags in (outside, members))
    wanted *= available > 0
    total = np.maximum(wanted.sum(1, keepdims=True), 1)
    share = wanted / total / np.where(available > 0, available, 1)
    common[:] = outside * share[:, strata]
    own[:] = members * (wanted > 0)[:, strata] / total
    return own, common
