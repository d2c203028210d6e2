"""Where a Pareto tail fits best: the Kolmogorov–Smirnov distance at each possible beginning."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled

STRIDE = 8
"""Of the tail's eigenvalues, the first that a distance is looked for at, since most tails soon prove worse."""


@compiled()
def distance(logs: Any, k: int, inverse: float, enough: float) -> float:
    """The distance of the first k of logs (n,) from the Pareto tail that begins at logs[k]; or one above `enough`."""
    most = 0.0
    for offset in range(STRIDE):
        for j in range(offset, k, STRIDE):
            above = np.exp((logs[k] - logs[j]) / inverse)  # the fitted share of the tail above this eigenvalue
            most = max(most, above - j / k, (j + 1) / k - above)
        if most > enough:
            break
    return most


@compiled()
def least_ks(logs: Any, least: int, equal: float) -> int:
    """The k ≥ `least` of least distance, the larger of equals; 0 where none is allowed.

    logs: float64 (n,), descending, without NaN. A k whose mean log excess is at most `equal` is passed over.
    """
    chosen, best, total = 0, np.inf, logs[:least].sum()
    for k in range(least, len(logs)):
        inverse = total / k - logs[k]
        total += logs[k]
        if inverse <= equal:
            continue
        found = distance(logs, k, inverse, best)
        if found <= best:
            best, chosen = found, k
    return chosen
