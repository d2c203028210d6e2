"""weightwatcher's own metrics of weight matrices, beside ours (METHODS §8).

It prints, sets up logging when it is imported, redirects the output of its whole process and rounds weights to float16
where torch sees a GPU, so that it runs in the quiet process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtdyn.analyses.groups.heavytail import ALPHA, ALPHA_WEIGHTED, ENTROPY, STABLE_RANK
from rtdyn.quiet import begin, quietly

EQUAL_FLOAT32 = 1e-5
"""A ratio of eigenvalues of a matrix rounded to float32 exceeds 1 by less through round-off."""


WEIGHTWATCHER_METRICS = (ALPHA, ALPHA_WEIGHTED, STABLE_RANK, ENTROPY)


MIN_SINGULAR_VALUES = 8


WEIGHTWATCHER_THRESHOLD = 1e-5
"""weightwatcher's fit leaves out eigenvalues at or under this, whatever the scale of the matrix."""


_COLUMNS = (*WEIGHTWATCHER_METRICS, "num_evals", "weak_rank_loss", "status", "xmin", "xmax", "matrix_rank")
"""Of weightwatcher's table, what the metrics and their reasons are made of."""


def begin_weightwatcher() -> None:
    """Has the library imported, which takes seconds, while other work goes on."""
    begin(_import)


def weightwatcher_metrics(matrix: Tensor) -> dict[str, float | str]:
    """weightwatcher's own alpha, alpha_weighted, stable_rank and entropy of one matrix, or why there is none.

    matrix: (a, b), as it is: neither centred nor scaled, read in float32 on the CPU, its full spectrum by SciPy's SVD.
    Under 20 eigenvalues weightwatcher changes to a bias-corrected fit. It draws no random numbers. Raises InputError
    if its process dies.
    """
    values = matrix.detach().to("cpu", torch.float32)
    smallest = min(values.shape)
    if smallest < MIN_SINGULAR_VALUES:
        return dict.fromkeys(WEIGHTWATCHER_METRICS, f"{smallest} singular values, under {MIN_SINGULAR_VALUES}")
    if not torch.isfinite(values).all():
        return dict.fromkeys(WEIGHTWATCHER_METRICS, "the matrix holds values that are not finite")
    if not values.any():
        return dict.fromkeys(WEIGHTWATCHER_METRICS, "the matrix is zero")
    row = quietly(weightwatcher_row, values.numpy())
    if row is None:
        reason = "weightwatcher was imported with a GPU in sight and rounds weights to half precision"
        return dict.fromkeys(WEIGHTWATCHER_METRICS, reason)
    return _defined(row)


def weightwatcher_row(values: np.ndarray) -> dict[str, Any] | None:
    """The row of weightwatcher's table for float32 (a, b), None where it rounds weights. For the quiet process."""
    library = _library()
    if library is None:
        return None
    layer = nn.Linear(1, 1, bias=False, device="meta")  # on `meta` so that no random numbers are drawn
    layer.weight = nn.Parameter(torch.from_numpy(values), requires_grad=False)
    details = library.WeightWatcher(model=nn.Sequential(layer)).analyze(
        min_evals=MIN_SINGULAR_VALUES,
        max_evals=0,  # no limit
        max_N=max(values.shape),
        tolerance=WEIGHTWATCHER_THRESHOLD,
        svd_method="accurate",
        plot=False,
        savefig=False,
    )
    row = details.iloc[0].to_dict()
    return {column: row[column] for column in _COLUMNS}


def _import() -> None:
    _library()


def _library() -> Any:
    """weightwatcher with its CPU code, so that the numbers do not depend on the machine; None if it has the other."""
    import weightwatcher
    import weightwatcher.RMT_Util

    return weightwatcher if weightwatcher.RMT_Util.torch_T_to_np(torch.zeros(1)).dtype == np.float32 else None


def _defined(row: dict[str, Any]) -> dict[str, float | str]:
    """A row of weightwatcher's table with reasons for its −1 of a failed fit and its values that mean nothing."""
    result: dict[str, float | str] = {metric: float(row[metric]) for metric in WEIGHTWATCHER_METRICS}
    fitted = int(row["num_evals"] - row["weak_rank_loss"])
    if fitted < MIN_SINGULAR_VALUES:
        reason = f"{fitted} eigenvalues above {WEIGHTWATCHER_THRESHOLD:g}, under {MIN_SINGULAR_VALUES}"
        result |= {ALPHA: reason, ALPHA_WEIGHTED: reason}
    elif row["status"] != "success" or not 1 < row["alpha"] < np.inf:
        result |= dict.fromkeys((ALPHA, ALPHA_WEIGHTED), "the power law could not be fitted")
    elif row["xmax"] <= row["xmin"] * (1 + EQUAL_FLOAT32):
        result |= dict.fromkeys((ALPHA, ALPHA_WEIGHTED), "the largest eigenvalues are equal")
    if row["matrix_rank"] < 2:
        result[ENTROPY] = "a matrix of rank 1 has no entropy"
    return result
