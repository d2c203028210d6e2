"""Where a Pareto tail fits best: the Kolmogorov–Smirnov distance at each possible beginning."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled

STRIDE = 8
"""Of the tail's eigenvalues, the first that a distance is looked for at, since most tails soon prove worse."""

NEAR = 1e-9
"""Distances are equal whose ratio is nearer to 1, where a library's round-off decides between them."""


@compiled()
def distance(logs: Any, k: int, inverse: float, own: int, enough: float, first: int) -> Any:
    """How far the first k of logs (n,) lie from the Pareto tail that begins at logs[k], and where, an index.

    Or a distance above `enough`, which is looked for at the index `first` first. own: as in `least_ks`.
    """
    most, at, size = 0.0, first, np.float64(k + own)
    for offset in range(-1, STRIDE):
        for j in range(first if offset < 0 else offset, k, k if offset < 0 else STRIDE):
            above = np.exp((logs[k] - logs[j]) / inverse)  # the fitted share of the tail above this eigenvalue
            apart = max(above - (j + own) / size, (j + 1) / size - above)
            if apart > most:
                most, at = apart, j
        if most > enough:
            break
    return most, at


@compiled()
def least_ks(logs: Any, least: int, equal: float, own: int, near: float) -> int:
    """The k ≥ `least` of least distance, the larger of equals; 0 where none is allowed.

    logs: float64 (n,), descending, without NaN. A k whose mean log excess is at most `equal` is passed over.
    own: 1 if the value that a tail begins at is one of it, as weightwatcher and powerlaw have it; else 0. They compare
    the fitted share with that of the tail from each value on. near: distances whose ratio is 1 + near at most are
    equal. Below 0, a distance that is less by no more than that is passed over, so that the smaller of equals stays.
    """
    chosen, best, total, at = 0, np.inf, logs[:least].sum(), 0
    for k in range(least, len(logs)):
        inverse = total / k - logs[k]
        total += logs[k]
        inverse = inverse if own == 0 else inverse * k / (k + 1)
        if inverse <= equal:
            continue
        enough = best * (1 + near)
        # where one tail is far from its fit, so is the next
        found, at = distance(logs, k, inverse, own, enough, at)
        if found <= enough:
            best, chosen = min(best, found), k
    return chosen
