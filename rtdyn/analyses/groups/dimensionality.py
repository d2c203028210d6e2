"""Effective dimensionality of a group's activations (METHODS §5; arXiv:2509.21163, eq. 4).

Activations are z-scored over positions, so that the covariance of n neurons over N positions is their correlation
matrix C = ZᵀZ/N, with eigenvalues λ₁ ≥ … ≥ λ_n and trace n.
  d_eff = least k with Σ_{j≤k} λ_j ≥ 0.95 Σ_j λ_j,   participation ratio = (Σλ)² / Σλ²
Neurons that do not vary leave the group: n counts the others. Under 5n positions nothing is defined.
Statistics take `sets` (s, n) of neuron indices, so that a group and its nulls go through the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

VARIANCE_SHARE = 0.95
POSITIONS_PER_NEURON = 5
MIN_NEURONS = 2
ROUND_OFF = 1e-9
"""A cumulative share this close under the threshold has reached it: equal eigenvalues come out unequal by round-off."""
CHUNK_BYTES = 256 * 2**20
CORRELATION_BYTES = 2**30


@dataclass(frozen=True)
class Dimensionality:
    """One value for each set, NaN where `undefined` gives a reason."""

    d_eff: np.ndarray
    """float64 (s,): principal components, a whole number."""
    d_eff_share: np.ndarray
    """float64 (s,): d_eff over the neurons that vary, in (0, 1]."""
    participation_ratio: np.ndarray
    """float64 (s,): in [1, n]."""
    live: np.ndarray
    """int64 (s,): neurons that vary."""


def standardised(activations: Tensor) -> tuple[Tensor, np.ndarray]:
    """Z-scores over positions, by the population standard deviation, and which neurons vary.

    activations: (N, F). Returns float64 (N, F) on the same device, 0 for a neuron whose maximum equals its minimum,
    and bool (F,).
    """
    if not activations.numel():
        return activations.detach().double(), np.zeros(activations.shape[1], dtype=bool)
    values = activations.detach().double()
    centred = values - values.mean(0)
    scale = centred.square().mean(0).sqrt()
    live = (values.amax(0) > values.amin(0)) & (scale > 0)
    centred[:, ~live] = 0
    return centred.div_(torch.where(live, scale, 1.0)), live.cpu().numpy()


def undefined(n_live: int, positions: int) -> str | None:
    """Why a group of `n_live` varying neurons has no dimensionality over that many positions, or None if it has one."""
    if n_live < MIN_NEURONS:
        return f"neurons that vary: {n_live}, under {MIN_NEURONS}"
    if positions < POSITIONS_PER_NEURON * n_live:
        return f"{positions:,} positions for {n_live:,} neurons, under {POSITIONS_PER_NEURON} each"
    return None


def dimensionality(z: Tensor, sets: np.ndarray, *, chunk_bytes: int = CHUNK_BYTES) -> Dimensionality:
    """Effective dimensionality of each set.

    z: (N, F) from `standardised`. sets: int64 (s, n) indices of neurons, distinct within a set. Memory beyond z: about
    `chunk_bytes`, and at most CORRELATION_BYTES for correlations shared by sets.
    """
    live = (z != 0).any(0).cpu().numpy()[sets].sum(1)
    defined = np.array([undefined(int(n), len(z)) is None for n in live], dtype=bool)
    d_eff, ratio = np.full(len(sets), np.nan), np.full(len(sets), np.nan)
    if defined.any():
        values = eigenvalues(z, sets[defined], chunk_bytes=chunk_bytes)
        total = values.sum(1)
        reached = np.cumsum(values, axis=1) >= (VARIANCE_SHARE - ROUND_OFF) * total[:, None]
        d_eff[defined] = reached.argmax(1) + 1
        ratio[defined] = total**2 / (values**2).sum(1)
    return Dimensionality(d_eff, d_eff / np.maximum(live, 1), ratio, live)


def eigenvalues(z: Tensor, sets: np.ndarray, *, chunk_bytes: int = CHUNK_BYTES) -> np.ndarray:
    """Eigenvalues of each set's correlation matrix ZᵀZ/N: float64 (s, n), descending, none under 0.

    z: float64 (N, F) from `standardised`. sets: int64 (s, n). Where n > N the n − N that must be 0 are exactly 0.
    """
    result = np.zeros(sets.shape)
    n, positions = sets.shape[1], len(z)
    if not result.size or not positions:
        return result
    used, index = np.unique(sets, return_inverse=True)
    index = index.reshape(sets.shape)
    narrow = z[:, torch.from_numpy(used).to(z.device)]
    # one product for all sets where it is the cheaper way and fits, else one for each set
    shared = n <= positions and len(used) ** 2 <= min(len(sets) * n**2, CORRELATION_BYTES // 8)
    source = narrow.T @ narrow / positions if shared else narrow.T.contiguous()
    side = min(n, positions)
    step = max(1, chunk_bytes // (8 * (3 * side**2 + (0 if shared else n * positions))))
    for start in range(0, len(sets), step):
        rows = torch.from_numpy(index[start : start + step]).to(z.device)
        if shared:
            matrices = source[rows[:, :, None], rows[:, None, :]]
        else:
            values = source[rows]
            matrices = (values @ values.mT if n <= positions else values.mT @ values) / positions
        found = torch.linalg.eigvalsh(matrices).flip(1).clamp(min=0)
        result[start : start + step, :side] = found.cpu().numpy()
    return result
