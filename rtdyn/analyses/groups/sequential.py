"""p-values from as many draws of a null as they need (METHODS §11; Besag & Clifford 1991).

FIRST draws are made for every null; the null's mean and deviation are theirs. Where at least ENOUGH of them lie as far
out as the value, on either side, p is by its rank among them. Else draws go on until ENOUGH do, or there are no more. p
is ENOUGH/L where the last of these comes at draw L, and by the +1 rule where it does not come. Under exchangeability
P(p ≤ α) ≤ α on each side. For α < ENOUGH/(FIRST + 1), p ≤ α says that fewer than ENOUGH of some number of draws lie as
far out. That number is fixed by α. For larger α it is the rank among FIRST draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rtdyn.analyses.statistics import Comparison, compare
from rtdyn.undefined import Undefined

FIRST = 99
ENOUGH = 10


def batches(total: int) -> Iterator[slice]:
    """Consecutive draws that are made at once, of `total`: FIRST, then as many again as there were before."""
    start, stop = 0, FIRST
    while start < total:
        yield slice(start, min(stop, total))
        start, stop = stop, 2 * stop + 1


def settled(value: float, drawn: np.ndarray) -> bool:
    """Whether no more draws are needed than drawn (s,), in their order; NaN among them counts for nothing."""
    return not math.isfinite(value) or min((drawn <= value).sum(), (drawn >= value).sum()) >= ENOUGH


def compare_in_turn(value: float, drawn: np.ndarray) -> Comparison | Undefined:
    """`value` against drawn (s,), in their order, NaN among them left out; the reason if too few are left.

    p is two-sided, twice that of the side on which fewer lie as far out.
    """
    found = compare(value, drawn[:FIRST])
    if isinstance(found, Undefined):
        return compare(value, drawn)
    start, finite = int(np.isfinite(drawn[:FIRST]).sum()), drawn[np.isfinite(drawn)]
    p = 2 * min(_one_sided(finite <= value, start), _one_sided(finite >= value, start))
    return Comparison(found.null_mean, found.null_sd, min(1.0, p))


def _one_sided(as_far: np.ndarray, first: int) -> float:
    """p from bool (s,) in the order of the draws, `first` of which were made at once."""
    at_once = int(as_far[:first].sum())
    if at_once >= ENOUGH:
        return (1 + at_once) / (1 + first)
    places = np.flatnonzero(as_far)
    return ENOUGH / (places[ENOUGH - 1] + 1) if len(places) >= ENOUGH else (1 + len(places)) / (1 + len(as_far))
