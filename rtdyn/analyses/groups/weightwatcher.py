"""weightwatcher's own metrics of weight matrices, beside ours (METHODS §8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtdyn.analyses.groups.heavytail import ALPHA, ALPHA_WEIGHTED, ENTROPY, STABLE_RANK
from rtdyn.quiet import _silenced

EQUAL_FLOAT32 = 1e-5
"""The same for a ratio of eigenvalues of a matrix rounded to float32."""


WEIGHTWATCHER_METRICS = (ALPHA, ALPHA_WEIGHTED, STABLE_RANK, ENTROPY)


MIN_SINGULAR_VALUES = 8


WEIGHTWATCHER_THRESHOLD = 1e-5
"""weightwatcher's fit leaves out eigenvalues at or under this, whatever the scale of the matrix."""


def weightwatcher_metrics(matrix: Tensor) -> dict[str, float | str]:
    """weightwatcher's own alpha, alpha_weighted, stable_rank and entropy of one matrix, or why there is none.

    matrix: (a, b), as it is: neither centred nor scaled, read in float32 on the CPU, its full spectrum by SciPy's SVD.
    Under 20 eigenvalues weightwatcher changes to a bias-corrected fit. Its output, logging and warnings are
    suppressed, and it draws no random numbers. Not safe to call from several threads at once.
    """
    values = matrix.detach().to("cpu", torch.float32)
    smallest, largest = sorted(values.shape)
    if smallest < MIN_SINGULAR_VALUES:
        return dict.fromkeys(WEIGHTWATCHER_METRICS, f"{smallest} singular values, under {MIN_SINGULAR_VALUES}")
    if not torch.isfinite(values).all():
        return dict.fromkeys(WEIGHTWATCHER_METRICS, "the matrix holds values that are not finite")
    if not values.any():
        return dict.fromkeys(WEIGHTWATCHER_METRICS, "the matrix is zero")
    with _silenced():
        library = _weightwatcher()
        if library is None:
            reason = "weightwatcher was imported with a GPU in sight and rounds weights to half precision"
            return dict.fromkeys(WEIGHTWATCHER_METRICS, reason)
        layer = nn.Linear(1, 1, bias=False, device="meta")  # on `meta` so that no random numbers are drawn
        layer.weight = nn.Parameter(values, requires_grad=False)
        details = library.WeightWatcher(model=nn.Sequential(layer)).analyze(
            min_evals=MIN_SINGULAR_VALUES,
            max_evals=0,  # no limit
            max_N=largest,
            tolerance=WEIGHTWATCHER_THRESHOLD,
            svd_method="accurate",
            plot=False,
            savefig=False,
        )
    return _defined(details.iloc[0].to_dict())


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


def _weightwatcher() -> Any:
    """weightwatcher with its CPU code, so that the numbers do not depend on the machine; None if it has the other.

    Imported where torch sees a GPU, it rounds every weight to float16.
    """
    import importlib

    available = torch.cuda.is_available
    torch.cuda.is_available = lambda: False
    try:
        library = importlib.import_module("weightwatcher")
        utilities = importlib.import_module("weightwatcher.RMT_Util")
    finally:
        torch.cuda.is_available = available
    return library if utilities.torch_T_to_np(torch.zeros(1)).dtype == np.float32 else None
