"""Correlations between columns: z-scores, every pair's Pearson r, and the eigenvalues of sets of columns."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.statistics import as_numpy
from rtdyn.analyses.threads import in_threads

CHUNK_BYTES = 32 * 2**20
"""What some sets take at a time: larger arrays are had from the system anew each time, which takes as long again."""
CORRELATION_BYTES = 2**30
GRAM_BLOCKS = 8
"""Blocks that one side of a symmetric product is cut into."""
BLOCK = 1024
"""Neurons whose standardised activations are held in float64 at a time."""


def standardised(columns: Tensor) -> tuple[Tensor, np.ndarray]:
    """Z-scores of each column, by the population standard deviation, and which columns vary.

    columns: (N, F). Returns float64 (N, F) on the same device, 0 for a column whose maximum equals its minimum or that
    is not finite, and bool (F,).
    """
    if not columns.numel():
        return columns.detach().double(), np.zeros(columns.shape[1], dtype=bool)
    values = columns.detach().double()
    centred = values - values.mean(0)
    scale = centred.square().mean(0).sqrt()
    live = (values.amax(0) > values.amin(0)) & (scale > 0)
    centred[:, ~live] = 0
    return centred.div_(torch.where(live, scale, 1.0)), live.cpu().numpy()


def correlation(columns: Tensor, *, block: int = BLOCK) -> Tensor:
    """float32 (F, F), on the device of the columns (N, F): Pearson r of every two, exactly symmetric, diagonal 1.

    Columns may have any mean and scale: they are standardised in float64, `block` at a time, and so are their
    products. A column that is constant or not finite has NaN with every other and itself. Memory beyond the columns:
    4·F² bytes (256 MiB at F = 8,192) and 16·block·(N + block) for the blocks.
    """
    neurons = columns.shape[1]
    r = torch.empty(neurons, neurons, device=columns.device)
    starts = range(0, neurons, block)
    for first in starts:
        left = _or_nan(columns[:, first : first + block])
        for second in range(first, neurons, block):
            right = left if second == first else _or_nan(columns[:, second : second + block])
            together = inner_products(left) if second == first else left.T @ right
            product = together.div_(len(columns)).clamp_(-1, 1).float()
            r[first : first + block, second : second + block] = product
            r[second : second + block, first : first + block] = product.T
    diagonal = r.diagonal()
    diagonal.copy_(torch.where(diagonal.isnan(), diagonal, 1.0))
    return r


def _or_nan(columns: Tensor) -> Tensor:
    """float64: z-scores, NaN for columns that never vary. columns: (N, F)."""
    z, live = standardised(columns)
    z[:, torch.from_numpy(~live).to(z.device)] = torch.nan
    return z


def gram(z: Tensor) -> Tensor:
    """float64 (F, F), on z's device: correlations ZᵀZ/N of every two columns. z: float64 (N, F) of `standardised`."""
    return inner_products(z).div_(len(z))


def inner_products(columns: Tensor) -> Tensor:
    """(F, F), exactly symmetric: of every two of the columns (N, F), in their type and on their device.

    On the CPU by NumPy, which computes one half and copies it, in less time than `by_blocks`.
    """
    if columns.device.type != "cpu":
        return by_blocks(columns)
    # NumPy sees a matrix with itself where one of the axes lies together, and else multiplies two copies
    array = (columns if 1 in columns.stride() else columns.contiguous()).detach().numpy()
    return torch.from_numpy(array.T @ array)


def by_blocks(columns: Tensor) -> Tensor:
    """`inner_products` (F, F) of columns (N, F) by blocks above the diagonal, copied below it."""
    neurons = columns.shape[1]
    result = columns.new_empty(neurons, neurons)
    size = -(-neurons // GRAM_BLOCKS)
    for start in range(0, neurons, max(1, size)):
        stop = min(start + size, neurons)
        torch.mm(columns[:, start:stop].T, columns[:, start:], out=result[start:stop, start:])
        diagonal = result[start:stop, start:stop]
        diagonal.copy_((diagonal + diagonal.T) / 2)
        result[stop:, start:stop] = result[start:stop, stop:].T
    return result


def fits_gram(neurons: int) -> bool:
    """Whether `gram` of so many neurons takes at most CORRELATION_BYTES."""
    return neurons**2 <= CORRELATION_BYTES // 8


def eigenvalues(
    z: Tensor, sets: np.ndarray, *, whole: Tensor | None = None, chunk_bytes: int = CHUNK_BYTES
) -> np.ndarray:
    """Eigenvalues of each set's correlation matrix ZᵀZ/N: float64 (s, n), descending, none under 0.

    z: float64 (N, F) from `standardised`. sets: int64 (s, n). whole: `gram` of z, where it is there. Where n > N the
    n − N that must be 0 are exactly 0.
    """
    result = np.zeros(sets.shape)
    n, positions = sets.shape[1], len(z)
    if not result.size or not positions:
        return result
    index, source = sets, whole
    shared = whole is not None and n <= positions
    if not shared:
        used, index = np.unique(sets, return_inverse=True)
        index = index.reshape(sets.shape)
        narrow = z[:, torch.from_numpy(used).to(z.device)]
        # one product for all sets where it is the cheaper way and fits, else one for each set
        shared = n <= positions and len(used) ** 2 <= len(sets) * n**2 and fits_gram(len(used))
        source = gram(narrow) if shared else narrow.T.contiguous()
    assert source is not None
    side = min(n, positions)
    step = max(1, chunk_bytes // (8 * (3 * side**2 + (0 if shared else n * positions))))
    for start in range(0, len(sets), step):
        rows = torch.from_numpy(index[start : start + step]).to(z.device)
        if shared:
            matrices = submatrices(source, rows)
        elif len(rows) == 1 and n > positions:
            matrices = inner_products(source[rows[0]])[None].div_(positions)
        else:
            values = source[rows]
            matrices = (values @ values.mT if n <= positions else values.mT @ values) / positions
        result[start : start + step, :side] = symmetric_eigenvalues(matrices)[:, ::-1].clip(min=0)
    return result


def all_finite(matrix: Tensor) -> bool:
    """Whether a matrix (a, b) holds neither infinity nor NaN: without an array as large."""
    return not matrix.numel() or all(map(math.isfinite, matrix.aminmax()))


def submatrices(matrix: Tensor, rows: Tensor) -> Tensor:
    """(…, n, n): the rows and columns of the matrix (F, F) that rows (…, n) name, on its device."""
    # several times as fast as indexing by two arrays
    return torch.take(matrix, rows[..., :, None] * len(matrix) + rows[..., None, :])


def symmetric_eigenvalues(matrices: Tensor) -> np.ndarray:
    """float64 (s, n) of float64 (s, n, n), or (n,) of one (n, n): ascending, on their device.

    On the CPU some matrices in each thread, by NumPy's LAPACK, which takes a third less than torch's from n = 512 on.
    """
    if matrices.device.type != "cpu":
        return as_numpy(torch.linalg.eigvalsh(matrices))
    if matrices.ndim == 2 or len(matrices) == 1:
        return np.linalg.eigvalsh(matrices.numpy())
    parts = np.array_split(matrices.numpy(), min(len(matrices), torch.get_num_threads()))
    return np.concatenate(in_threads(np.linalg.eigvalsh, parts))
