"""weightwatcher itself, as the quiet process calls it, which needs nothing else that is imported in this room."""

from __future__ import annotations

from typing import Any

import numpy as np

MIN_SINGULAR_VALUES = 8
WEIGHTWATCHER_THRESHOLD = 1e-5
"""weightwatcher's fit leaves out eigenvalues at or under this, whatever the scale of the matrix."""
FULL_PRECISION = 1e-10
"""What weightwatcher adds to shares before it takes logarithms; with a GPU in sight it is for half precision."""


def weightwatcher_row(eigenvalues: np.ndarray, larger_side: int, tail: int) -> dict[str, Any] | None:
    """What weightwatcher's table says of a matrix with these squared singular values, by its own functions.

    eigenvalues: float64 (n,). larger_side: the more of the matrix's rows and columns. tail: how many of the largest its
    power law is fitted to. None where weightwatcher counts with half precision.
    """
    library = _library()
    if library is None:
        return None
    ordered = np.sort(eigenvalues)
    alpha, _, xmin, xmax, *_, status, _ = library.WeightWatcher().fit_powerlaw(
        ordered[-tail:], thresh=WEIGHTWATCHER_THRESHOLD, plot=False, savefig=False
    )
    singular = np.sqrt(ordered)
    return {
        "alpha": alpha,
        "alpha_weighted": alpha * np.log10(ordered[-1]),
        "stable_rank": ordered.sum() / ordered[-1],
        "entropy": library.RMT_Util.matrix_entropy(singular, larger_side),
        "fitted": int((ordered > WEIGHTWATCHER_THRESHOLD).sum()),
        "status": status,
        "xmin": xmin,
        "xmax": xmax,
        "rank": library.RMT_Util.matrix_rank(singular, larger_side),
    }


def import_weightwatcher() -> None:
    """Imports it, which takes seconds, and does nothing with it."""
    _library()


def _library() -> Any:
    """weightwatcher with its CPU code, so that the numbers do not depend on the machine; None if it has the other."""
    import weightwatcher
    import weightwatcher.RMT_Util

    return weightwatcher if weightwatcher.RMT_Util.EPSILON == FULL_PRECISION else None
