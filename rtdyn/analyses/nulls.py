"""What a group's statistic is held against: sets of equal size, chosen otherwise (METHODS §4).

`random` sets come from outside the group; `matched` ones too, and have the group's deciles of sd(a_i)·‖w̃_i‖ and of
the firing rate as far as the outside has them; `selected` ones are what the group's own rule picks for pseudo-classes
of common positions. A set is a row of neuron indices, so that a statistic maps sets (s, n) to values (s,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtdyn.capture import Capture

RANDOM, MATCHED, SELECTED = "random", "matched", "selected"
NULLS = (RANDOM, MATCHED, SELECTED)
DRAWS = 999
"""Random and matched sets of a group."""
LARGE = 64
LARGE_DRAWS = 199
"""The same for groups of more than LARGE neurons, whose statistics cost the cube of their size."""
DECILES = 10


@dataclass(frozen=True)
class Comparison:
    """A value among the values of its null."""

    null_mean: float
    null_sd: float
    p_value: float
    """Two-sided: min(1, 2 × the smaller tail), the value itself counted in."""

    def z(self, value: float) -> float | None:
        """The value in standard deviations of its null; None where these are 0."""
        return (value - self.null_mean) / self.null_sd if self.null_sd > 0 else None


def compare(value: float, null: np.ndarray) -> Comparison | str:
    """`value` against null values (s,), NaN among them left out; the reason if fewer than 19 are left."""
    null = null[np.isfinite(null)]
    if len(null) < 19:
        return f"only {len(null)} sets of the null have a value"
    at_most, at_least = int((null <= value).sum()), int((null >= value).sum())
    p = min(1.0, 2 * (1 + min(at_most, at_least)) / (len(null) + 1))
    return Comparison(float(null.mean()), float(null.std(ddof=1)), p)


def random_sets(members: np.ndarray, neurons: int, draws: int, rng: np.random.Generator) -> np.ndarray | str:
    """int64 (draws, n): sets of the size of `members` from the other neurons, or why there are none."""
    outside = np.setdiff1d(np.arange(neurons), members)
    if len(outside) < len(members):
        return _too_few(len(members), len(outside))
    order = rng.random((draws, len(outside))).argsort(axis=1)[:, : len(members)]
    return np.sort(outside[order], axis=1)


def _too_few(members: int, outside: int) -> str:
    return f"{outside} neurons outside a group of {members} make no set of its size"


def matching_deciles(captured: Capture) -> np.ndarray:
    """int64 (F, 2): each neuron's decile of sd(a_i)·‖w̃_i‖ and of its firing rate, ties by neuron."""
    rows = captured.anatomy.output_rows.double()
    if captured.anatomy.readout.centred:
        rows = rows - rows.mean(1, keepdim=True)
    strength = captured.moments.variance.sqrt() * rows.norm(dim=1)
    columns = [v.cpu().numpy() for v in (strength, captured.moments.positive)]
    ranks = [np.argsort(np.argsort(column, kind="stable"), kind="stable") for column in columns]
    return np.stack([rank * DECILES // len(rank) for rank in ranks], axis=1)


def matched_sets(
    members: np.ndarray, deciles: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, float] | str:
    """Sets from outside the group with its members' deciles, and the mean difference that was unavoidable.

    deciles: int64 (F, 2). Members whose cell of deciles has too few others get the nearest that is left, so that
    the sum of decile differences is least. Returns int64 (draws, n) and decile units a member, or why there are none.
    """
    from scipy.optimize import linear_sum_assignment

    outside = np.setdiff1d(np.arange(len(deciles)), members)
    if len(outside) < len(members):
        return _too_few(len(members), len(outside))
    cell = deciles @ np.array([DECILES, 1])
    sets = np.empty((draws, len(members)), dtype=np.int64)
    distance = 0.0
    for draw in range(draws):
        shuffled = rng.permutation(outside)
        taken, left = _same_cell(cell, rng.permutation(members), shuffled)
        if len(left):
            free = np.setdiff1d(shuffled, taken)
            apart = np.abs(deciles[left][:, None] - deciles[free]).sum(2)
            rows, columns = linear_sum_assignment(apart + rng.random(apart.shape) / (1 + apart.size))
            distance += float(apart[rows, columns].sum())
            taken = np.append(taken, free[columns])
        sets[draw] = np.sort(taken)
    return sets, distance / (draws * max(1, len(members)))


def _same_cell(cell: np.ndarray, members: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many of `outside`, in its order, as each cell has members, and the members left without one."""
    taken, left = [], []
    for one in np.unique(cell[members]):
        own, others = members[cell[members] == one], outside[cell[outside] == one]
        taken.append(others[: len(own)])
        left.append(own[len(others) :])
    return np.concatenate([outside[:0], *taken]), np.concatenate([members[:0], *left])


def largest(values: np.ndarray, size: int) -> np.ndarray:
    """int64 (s, size), ascending: the `size` largest of each row of values (s, F), ties by neuron."""
    return np.sort(np.argsort(-values, axis=1, kind="stable")[:, :size], axis=1)
