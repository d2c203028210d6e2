"""Squared correlations, and the participation ratio, without what few positions add to them (METHODS §11).

Noise adds (1 − ρ²)²/N to the square of a correlation ρ over N independent positions. So a set of n neurons seems to
have fewer dimensions the fewer positions there are (arXiv:2509.26560). Pairs of different positions have no such
part: the mean over them of z_pi·z_pj·z_qi·z_qj is ρ². Positions of one piece of text are not independent, so that p and
q are of different pieces. With G = ZᵀZ and G_c the same over piece c of N_c positions, that mean is

    (G_ij² − Σ_c G_c,ij²) / (N² − Σ_c N_c²).

What the estimated means and variances of Z add is of the order of the squared inverse of the number of pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups.correlations import CHUNK_BYTES, submatrices
from rtdyn.analyses.statistics import as_numpy
from rtdyn.undefined import Undefined

PIECES = 16
"""Into so many pieces clusters are merged, at most. Each takes a pass over all pairs of neurons, and fewer would leave
out more pairs of positions."""
BLOCK = 1024
"""Neurons whose products with all later ones are made at a time."""


def pieces(cluster: np.ndarray) -> np.ndarray:
    """int64 (N,): the piece of each position, from 0; whole clusters in the order of their numbers, about equally long.

    cluster: int (N,), the independent piece of text that each position lies in.
    """
    _, index, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.unique(np.floor(middle * PIECES / len(cluster))[index], return_inverse=True)[1]


@dataclass(frozen=True)
class Pieces:
    """Z-scores of one half's positions by the piece of text that they lie in."""

    z: tuple[Tensor, ...]
    """Of each piece, float64 (N_c, F) of `standardised`; views of it where the pieces follow each other."""
    pairs: float
    """Ordered pairs of positions of different pieces."""


def of_pieces(z: Tensor, cluster: np.ndarray) -> Pieces | Undefined:
    """z (N, F) of `standardised` by pieces, or the reason if there is one only.

    cluster: int (N,), the independent piece of text that each position lies in.
    """
    piece = pieces(cluster)
    counts = np.bincount(piece)
    if len(counts) < 2:
        return Undefined("all positions of one half lie in one independent piece of text")
    if (np.diff(piece) < 0).any():
        z = z[torch.from_numpy(np.argsort(piece, kind="stable")).to(z.device)]
    return Pieces(z.split(counts.tolist()), float(len(z) ** 2 - (counts**2).sum()))


def squared_correlations(of: Pieces, *, block: int = BLOCK) -> Tensor:
    """float32 (F, F), on z's device: unbiased squares of the correlations. A neuron with itself has 1; where one of the
    two does not vary, it is 0. They may lie under 0 and above 1.
    """
    neurons = of.z[0].shape[1]
    squares = torch.empty(neurons, neurons, device=of.z[0].device)
    for start in range(0, neurons, block):
        rows = slice(start, start + block)
        above = _unbiased((part[:, rows], part[:, start:]) for part in of.z).div_(of.pairs).float()
        squares[rows, start:] = above
        squares[start:, rows] = above.T
    squares.diagonal().copy_(_varies(of))
    return squares


def _varies(of: Pieces) -> Tensor:
    """bool (F,), on z's device."""
    return torch.stack([(part != 0).any(0) for part in of.z]).any(0)


def _unbiased(parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """(…, a, b): G² − Σ_c G_c² of the parts G_c = leftᵀ·right, left (…, N_c, a) and right (…, N_c, b)."""
    products = (left.mT @ right for left, right in parts)
    whole = next(products)
    own = whole.square()
    for product in products:
        whole += product
        own += product.square_()
    return whole.square_().sub_(own)


def unbiased_participation_ratio(
    squares: Tensor | Pieces, sets: np.ndarray, *, chunk_bytes: int = CHUNK_BYTES
) -> np.ndarray:
    """float64 (s,): (Σλ)²/Σλ² of each set's correlations, Σλ² by squares (F, F) of `squared_correlations`.

    It scatters about the true value, and so may exceed n. NaN where Σλ² comes out at 0 or less. sets: int64 (s, n).
    squares: or what they are made of, where only those of the sets are to be made.
    """
    live = as_numpy(_varies(squares) if isinstance(squares, Pieces) else squares.diagonal())[sets].sum(1)
    total, n = np.empty(len(sets)), sets.shape[1]
    positions = sum(map(len, squares.z)) if isinstance(squares, Pieces) else 0
    step = max(1, chunk_bytes // max(1, 8 * n * (4 * n + positions)))
    for start in range(0, len(sets), step):
        rows = torch.from_numpy(sets[start : start + step])
        if isinstance(squares, Pieces):
            total[start : start + step] = _summed(squares, rows)
        else:
            of_sets = submatrices(squares, rows.to(squares.device))
            total[start : start + step] = as_numpy(of_sets.double().sum((-1, -2)))
    return np.divide(live**2, total, out=np.full(len(sets), np.nan), where=total > 0)


def _summed(of: Pieces, sets: Tensor) -> np.ndarray:
    """float64 (s,): the sums of `squared_correlations` over the pairs of each set (s, n)."""
    sets = sets.to(of.z[0].device)
    parts = [part.T[sets].mT for part in of.z]
    squares = _unbiased((part, part) for part in parts).div_(of.pairs)
    squares.diagonal(dim1=-2, dim2=-1).copy_(_varies(of)[sets])
    return as_numpy(squares.sum((-1, -2)))
