"""Tail exponents that matrices of any shape may be compared by: of their square submatrices (METHODS §11).

The spectrum of a matrix depends on its aspect ratio, even where all entries are noise, and so does any exponent of it.
FARMS (arXiv:2506.06280) cuts the matrix into submatrices of one fixed ratio, here 1, and fits the exponent to all of
their eigenvalues together. Submatrices are as wide as the matrix' shorter side, LARGEST_SIDE at most, and lie side by
side, evenly spread. Theirs are no independent draws from a tail: the exponent has no interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups.correlations import all_finite, standardised
from rtdyn.analyses.groups.heavytail import HALF, TENTH, Spectra, hill_of_spectra, undefined
from rtdyn.analyses.groups.weightwatcher import squared_singular_values, weightwatcher_alpha
from rtdyn.analyses.threads import in_threads
from rtdyn.undefined import Undefined

LEAST_SIDE, LARGEST_SIDE = 16, 1024
"""Of submatrices: smaller ones are not alike, and larger ones cost more than they tell."""
HILL_RULES = (TENTH, HALF)

Alphas = Mapping[str, float | Undefined]
"""By rule of HILL_RULES."""


def fixed_aspect_hill(rows: Tensor) -> Alphas:
    """Hill's α of the eigenvalues of all square submatrices of W̃, the rows (n, d) centred and scaled, by rule."""
    z, live = standardised(rows.T)
    values = pooled_eigenvalues(z.T[torch.from_numpy(np.flatnonzero(live)).to(z.device)])
    if isinstance(values, Undefined):
        return dict.fromkeys(HILL_RULES, values)
    pooled = Spectra(values[None], np.array([len(values)]))
    alphas: dict[str, float | Undefined] = {}
    for rule in HILL_RULES:
        why = undefined(pooled, rule)[0]
        alphas[rule] = float(hill_of_spectra(pooled, rule).alpha[0]) if why is None else why
    return alphas


def fixed_aspect_weightwatcher(matrix: Tensor) -> float | Undefined:
    """weightwatcher's α of the squared singular values of all square submatrices of a matrix (a, b), as it is."""
    values = pooled_eigenvalues(matrix.detach().float().double())
    return values if isinstance(values, Undefined) else weightwatcher_alpha(values)


def pooled_eigenvalues(matrix: Tensor) -> np.ndarray | Undefined:
    """float64 (m,), descending: squared singular values of all square submatrices of a float64 (a, b)."""
    if min(matrix.shape) < LEAST_SIDE:
        return Undefined(f"the shorter side of the matrix is {min(matrix.shape)}, under {LEAST_SIDE}")
    if not all_finite(matrix):
        return Undefined("the matrix holds values that are not finite")
    each = map if matrix.device.type != "cpu" else in_threads
    return -np.sort(-np.concatenate(list(each(squared_singular_values, square_submatrices(matrix)))))


def square_submatrices(matrix: Tensor) -> Iterator[Tensor]:
    """Of a matrix (a, b): as many beside each other as fit, the first and the last at its edges; (side, side)."""
    side = min(*matrix.shape, LARGEST_SIDE)
    rows, columns = (np.linspace(0, n - side, n // side).round().astype(int) for n in matrix.shape)
    for row in rows:
        for column in columns:
            yield matrix[row : row + side, column : column + side]
