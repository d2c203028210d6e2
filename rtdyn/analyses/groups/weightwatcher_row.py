"""weightwatcher itself, as the quiet process calls it, which needs nothing else that is imported in this room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

MIN_SINGULAR_VALUES = 8
WEIGHTWATCHER_THRESHOLD = 1e-5
"""weightwatcher's fit leaves out eigenvalues at or under this, whatever the scale of the matrix."""


def weightwatcher_row(values: np.ndarray, columns: Sequence[str]) -> dict[str, Any] | None:
    """Columns of the row of weightwatcher's table for a float32 (a, b), None where it rounds the weights."""
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
    return {column: row[column] for column in columns}


def import_weightwatcher() -> None:
    """Imports it, which takes seconds, and does nothing with it."""
    _library()


def _library() -> Any:
    """weightwatcher with its CPU code, so that the numbers do not depend on the machine; None if it has the other."""
    import weightwatcher
    import weightwatcher.RMT_Util

    return weightwatcher if weightwatcher.RMT_Util.torch_T_to_np(torch.zeros(1)).dtype == np.float32 else None
