"""Effective dimensionality of a group's activations (METHODS §5; [DS] eq. 4).

Activations are z-scored over positions. So the covariance of n neurons over N positions is their correlation matrix
C = ZᵀZ/N. Its eigenvalues are λ₁ ≥ … ≥ λ_n, its trace is n.

    d_eff = least k with Σ_{j≤k} λ_j ≥ 0.95 Σ_j λ_j,   participation ratio = (Σλ)² / Σλ²

Neurons that do not vary leave the group: n counts the others. Under 5n positions nothing is defined.
The participation ratio falls with fewer positions; `squared_correlations` has the one that does not.
Statistics take `sets` (s, n) of neuron indices, so that a group and its nulls go through the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.correlations import CHUNK_BYTES, eigenvalues, fits_gram, gram, standardised
from rtdyn.analyses.groups.measure import GroupValues, activations_by_half, measure_if_defined, rows_of_half
from rtdyn.analyses.groups.sequential import FIRST
from rtdyn.analyses.groups.squared_correlations import of_pieces, squared_correlations, unbiased_participation_ratio
from rtdyn.counted import counted
from rtdyn.undefined import Undefined

VARIANCE_SHARE = 0.95
POSITIONS_PER_NEURON = 5
MIN_NEURONS = 2
ROUND_OFF = 1e-9
"""A cumulative share this close under the threshold has reached it: equal eigenvalues come out unequal by round-off."""

UNBIASED = "participation_ratio_unbiased"
METRICS = ("d_eff", "d_eff_share", "participation_ratio", UNBIASED)


@dataclass(frozen=True)
class Dimensionality:
    """What `dimensionality` finds."""

    groups: GroupValues
    """METRICS of each group's activations at all measured positions."""


@dataclass(frozen=True)
class SetDimensionality:
    """One value for each set, NaN where `undefined` gives a reason."""

    d_eff: np.ndarray
    """float64 (s,): principal components, a whole number."""
    d_eff_share: np.ndarray
    """float64 (s,): d_eff over the neurons that vary, in (0, 1]."""
    participation_ratio: np.ndarray
    """float64 (s,): in [1, n]."""
    live: np.ndarray
    """int64 (s,): neurons that vary."""


def dimensionality(context: Context) -> Dimensionality:
    """Effective dimensionality of each group's activations beside its nulls."""
    z = [standardised(activations)[0] for activations in activations_by_half(context)]
    # sets of a null together have more pairs of neurons than the layer, unless groups are small beside it
    once = _pairs(context.groups, len(z[0])) >= z[0].shape[1] ** 2
    whole = [gram(of_half) if once and fits_gram(of_half.shape[1]) else None for of_half in z]
    cluster = context.clusters[context.captured.positions.window]
    by_piece = [of_pieces(z[half], cluster[rows_of_half(context, half)]) for half in (0, 1)]
    squares = [squared_correlations(of) if once and not isinstance(of, Undefined) else of for of in by_piece]

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        values, of_half = set_dimensionality(z[half], sets, whole=whole[half]), squares[half]
        nothing = np.full(len(sets), np.nan)
        unbiased = nothing if isinstance(of_half, Undefined) else unbiased_participation_ratio(of_half, sets)
        plain = (values.d_eff, values.d_eff_share, values.participation_ratio)
        return dict(zip(METRICS, (*plain, unbiased), strict=True))

    def reasons(half: int, members: np.ndarray) -> Mapping[str, Undefined | None]:
        live = int((z[half][:, torch.from_numpy(members)] != 0).any(0).sum())
        why, of_half = undefined(live, len(z[half])), squares[half]
        one_piece = of_half if isinstance(of_half, Undefined) else None
        return {**dict.fromkeys(METRICS, why), UNBIASED: why or one_piece}

    return Dimensionality(
        {name: measure_if_defined(group, METRICS, statistic, reasons) for name, group in context.groups.items()}
    )


def _pairs(groups: Mapping[str, Group | Undefined], positions: int) -> int:
    """Pairs of neurons in the first sets of every null of groups that may have a dimensionality."""
    sizes = [len(group.members[0]) for group in groups.values() if not isinstance(group, Undefined)]
    return FIRST * sum(n**2 for n in sizes if undefined(n, positions) is None)


def undefined(n_live: int, positions: int) -> Undefined | None:
    """Why a group of `n_live` varying neurons has no dimensionality over that many positions, or None if it has one."""
    if n_live < MIN_NEURONS:
        return Undefined(f"neurons that vary: {n_live}, under {MIN_NEURONS}")
    if positions < POSITIONS_PER_NEURON * n_live:
        return Undefined(
            f"{counted(positions, 'position')} for {counted(n_live, 'neuron')}, under {POSITIONS_PER_NEURON} each"
        )
    return None


def set_dimensionality(
    z: Tensor, sets: np.ndarray, *, whole: Tensor | None = None, chunk_bytes: int = CHUNK_BYTES
) -> SetDimensionality:
    """Effective dimensionality of each set.

    z: (N, F) from `standardised`. sets: int64 (s, n) indices of neurons, distinct within a set. whole: `gram` of z,
    where it is there. Memory beyond z: about `chunk_bytes`, and at most CORRELATION_BYTES for correlations shared by
    sets.
    """
    live = (z != 0).any(0).cpu().numpy()[sets].sum(1)
    defined = np.array([undefined(int(n), len(z)) is None for n in live], dtype=bool)
    d_eff, ratio = np.full(len(sets), np.nan), np.full(len(sets), np.nan)
    if defined.any():
        values = eigenvalues(z, sets[defined], whole=whole, chunk_bytes=chunk_bytes)
        total = values.sum(1)
        reached = np.cumsum(values, axis=1) >= (VARIANCE_SHARE - ROUND_OFF) * total[:, None]
        d_eff[defined] = reached.argmax(1) + 1
        ratio[defined] = total**2 / (values**2).sum(1)
    return SetDimensionality(d_eff, d_eff / np.maximum(live, 1), ratio, live)
