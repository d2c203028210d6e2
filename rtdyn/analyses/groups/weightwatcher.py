"""weightwatcher's own metrics of weight matrices, beside ours (METHODS §8).

It is given squared singular values, which the smaller Gram matrix has, and fits them: its own singular value
decomposition would take minutes. Its fit goes through all beginnings of a tail, and for each through all values of it,
which takes seconds for a thousand of them. So it is given the values from the beginning on that it will find (`tail`).
It looks through the later ones, and comes to the same. It prints, sets up logging when it is imported, and changes its
constants where torch sees a GPU. So it runs in the quiet process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from rtdyn.analyses.groups.correlations import all_finite, inner_products, symmetric_eigenvalues
from rtdyn.analyses.groups.heavytail import ALPHA, ALPHA_WEIGHTED, ENTROPY, EQUAL, STABLE_RANK
from rtdyn.analyses.groups.weightwatcher_row import (
    MIN_SINGULAR_VALUES,
    WEIGHTWATCHER_THRESHOLD,
    import_weightwatcher,
    weightwatcher_row,
)
from rtdyn.analyses.kernels.least_ks import NEAR, least_ks
from rtdyn.counted import counted
from rtdyn.quiet import begin, quietly
from rtdyn.undefined import Undefined

EQUAL_FLOAT32 = 1e-5
"""A ratio of eigenvalues of a matrix rounded to float32 exceeds 1 by less through round-off."""
BIAS_CORRECTED = 20
"""Under so many eigenvalues weightwatcher changes to a bias-corrected fit."""
WEIGHTWATCHER_METRICS = (ALPHA, ALPHA_WEIGHTED, STABLE_RANK, ENTROPY)


def begin_weightwatcher() -> None:
    """Has the library imported, which takes seconds, while other work goes on."""
    begin(import_weightwatcher)


def weightwatcher_metrics(matrix: Tensor) -> dict[str, float | Undefined]:
    """weightwatcher's own alpha, alpha_weighted, stable_rank and entropy of one matrix, or why there is none.

    matrix: (a, b), as it is: neither centred nor scaled, read in float32, its squared singular values in float64 on
    its device. It draws no random numbers. Raises
    InputError if its process dies.
    """
    smallest = min(matrix.shape)
    if smallest < MIN_SINGULAR_VALUES:
        return _none(f"{counted(smallest, 'singular value')}, under {MIN_SINGULAR_VALUES}")
    values = matrix.detach().float().double()
    if not all_finite(values):
        return _none("the matrix holds values that are not finite")
    if not bool(matrix.any()):
        return _none("the matrix is zero")
    return _of_eigenvalues(squared_singular_values(values), max(matrix.shape))


def weightwatcher_alpha(values: np.ndarray) -> float | Undefined:
    """weightwatcher's alpha of squared singular values (n,), or why there is none."""
    if not values.any():
        return Undefined("the matrix is zero")
    return _of_eigenvalues(values, len(values))[ALPHA]


def _of_eigenvalues(values: np.ndarray, larger_side: int) -> dict[str, float | Undefined]:
    row = quietly(weightwatcher_row, values, larger_side, tail(values))
    if row is None:
        return _none("weightwatcher was imported with a GPU in sight and counts with half precision")
    return _defined(row)


def tail(values: np.ndarray) -> int:
    """How many of the largest values (n,) weightwatcher's fit has to be given so that it finds what it finds in all."""
    logs = np.log(np.sort(values[values > WEIGHTWATCHER_THRESHOLD])[::-1])
    begins = least_ks(logs, 1, EQUAL, 1, NEAR)
    return max(begins + 1, BIAS_CORRECTED) if begins else len(values)


def squared_singular_values(matrix: Tensor) -> np.ndarray:
    """float64 (min(a, b),), ascending: eigenvalues of the smaller Gram matrix of a float64 (a, b), on its device.

    Those that are 0 but for round-off are exactly 0.
    """
    rows, columns = matrix.shape
    values = symmetric_eigenvalues(inner_products(matrix.T if rows < columns else matrix))
    return np.where(values > max(rows, columns) * np.finfo(np.float64).eps * values[-1], values, 0.0)


def _none(reason: str) -> dict[str, float | Undefined]:
    return dict.fromkeys(WEIGHTWATCHER_METRICS, Undefined(reason))


def _defined(row: dict[str, Any]) -> dict[str, float | Undefined]:
    """What `weightwatcher_row` says, with reasons for its −1 of a failed fit and its values that mean nothing."""
    result: dict[str, float | Undefined] = {metric: float(row[metric]) for metric in WEIGHTWATCHER_METRICS}
    fitted = row["fitted"]
    if fitted < MIN_SINGULAR_VALUES:
        reason = Undefined(
            f"{counted(fitted, 'eigenvalue')} above {WEIGHTWATCHER_THRESHOLD:g}, under {MIN_SINGULAR_VALUES}"
        )
        result |= {ALPHA: reason, ALPHA_WEIGHTED: reason}
    elif row["status"] != "success" or not 1 < row["alpha"] < np.inf:
        result |= dict.fromkeys((ALPHA, ALPHA_WEIGHTED), Undefined("the power law could not be fitted"))
    elif row["xmax"] <= row["xmin"] * (1 + EQUAL_FLOAT32):
        result |= dict.fromkeys((ALPHA, ALPHA_WEIGHTED), Undefined("the largest eigenvalues are equal"))
    if row["rank"] < 2:
        result[ENTROPY] = Undefined("a matrix of rank 1 has no entropy")
    return result
