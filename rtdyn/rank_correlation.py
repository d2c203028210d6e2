"""Spearman's correlation of two rankings, with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rtdyn.intervals import NORMAL_95
from rtdyn.undefined import Undefined

FEWEST = 10
"""Pairs under which there is no correlation."""


@dataclass(frozen=True)
class RankCorrelation:
    """A correlation with its 95 % interval, which takes the pairs for the sample."""

    value: float
    low: float
    high: float
    pairs: int


def rank_correlation(x: np.ndarray, y: np.ndarray) -> RankCorrelation | Undefined:
    """Of (n,) and (n,), where both are finite, with Bonett and Wright's interval (2000)."""
    from scipy.stats import rankdata

    both = np.isfinite(x) & np.isfinite(y)
    n = int(both.sum())
    if n < FEWEST:
        return Undefined(f"fewer than {FEWEST} neurons have a rank in both")
    a, b = (np.asarray(rankdata(values[both])) for values in (x, y))
    if a.min() == a.max() or b.min() == b.max():
        return Undefined("all neurons rank alike")
    r = float(np.corrcoef(a, b)[0, 1])
    if abs(r) >= 1:
        return RankCorrelation(r, r, r, n)
    reach = NORMAL_95 * math.sqrt((1 + r**2 / 2) / (n - 3))
    return RankCorrelation(r, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach), n)
