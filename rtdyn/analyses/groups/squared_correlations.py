"""Squared correlations, and the participation ratio, without what few positions add to them (METHODS §11).

Noise adds (1 − ρ²)²/N to the square of a correlation ρ over N independent positions, so that a set of n neurons seems
to have fewer dimensions the fewer positions there are (arXiv:2509.26560). Pairs of different positions have no such
part: the mean over them of z_pi·z_pj·z_qi·z_qj is ρ². Positions of one piece of text are not independent, so that p and
q are of different pieces. With G = ZᵀZ and G_c the same over piece c of N_c positions, that mean is
  (G_ij² − Σ_c G_c,ij²) / (N² − Σ_c N_c²).
What the estimated means and variances of Z add is of the order of the squared inverse of the number of pieces.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups.correlations import CHUNK_BYTES, submatrices
from rtdyn.analyses.statistics import as_numpy
from rtdyn.undefined import Undefined

PIECES = 16
"""Into so many pieces clusters are merged, at most: each takes a pass over all pairs of neurons, and fewer would leave
out more pairs of positions."""
BLOCK = 1024
"""Neurons whose products with all others are made at a time."""


def pieces(cluster: np.ndarray) -> np.ndarray:
    """int64 (N,): the piece of each position, from 0; whole clusters in the order of their numbers, about equally long.

    cluster: int (N,), the independent piece of text that each position lies in.
    """
    _, index, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.unique(np.floor(middle * PIECES / len(cluster))[index], return_inverse=True)[1]


def squared_correlations(z: Tensor, cluster: np.ndarray, *, block: int = BLOCK) -> Tensor | Undefined:
    """float32 (F, F), on z's device: unbiased squares of the correlations; 1 for a neuron with itself; 0 where one of
    the two does not vary. They may lie under 0 and above 1. The reason if there is one piece only.

    z: float64 (N, F) of `standardised`. cluster: int (N,), the independent piece of text that each position lies in.
    """
    piece = pieces(cluster)
    counts = np.bincount(piece)
    if len(counts) < 2:
        return Undefined("all positions of one half lie in one independent piece of text")
    of_pieces = [z[torch.from_numpy(np.flatnonzero(piece == k)).to(z.device)] for k in range(len(counts))]
    pairs = float(len(z) ** 2 - (counts**2).sum())
    squares = torch.empty(z.shape[1], z.shape[1], device=z.device)
    for start in range(0, z.shape[1], block):
        columns = slice(start, start + block)
        whole, own = torch.zeros(2, z[:, columns].shape[1], z.shape[1], dtype=z.dtype, device=z.device)
        for of_piece in of_pieces:
            product = of_piece[:, columns].T @ of_piece
            whole += product
            own += product.square_()
        squares[columns] = (whole.square_().sub_(own) / pairs).float()
    squares.diagonal().copy_((z != 0).any(0))
    return squares


def unbiased_participation_ratio(squares: Tensor, sets: np.ndarray, *, chunk_bytes: int = CHUNK_BYTES) -> np.ndarray:
    """float64 (s,): (Σλ)²/Σλ² of each set's correlations, Σλ² by squares (F, F) of `squared_correlations`.

    It scatters about the true value, and so may exceed n. NaN where Σλ² comes out at 0 or less. sets: int64 (s, n).
    """
    live = as_numpy(squares.diagonal())[sets].sum(1)
    total = np.empty(len(sets))
    step = max(1, chunk_bytes // max(1, 8 * sets.shape[1] ** 2))
    for start in range(0, len(sets), step):
        rows = torch.from_numpy(sets[start : start + step]).to(squares.device)
        total[start : start + step] = as_numpy(submatrices(squares, rows).double().sum((-1, -2)))
    return np.divide(live**2, total, out=np.full(len(sets), np.nan), where=total > 0)
