"""95 % intervals from standard errors."""

from __future__ import annotations

import math

NORMAL_95 = 1.959963984540054
"""Standard errors on either side of a 95 % interval of an estimate whose standard error is known."""
NORMAL_90 = 1.6448536269514722
"""The same of a 90 % interval."""
QUANTILES_95 = (0.025, 0.975)
"""Those between which 95 % lie."""


def normal_interval(value: float, se: float) -> tuple[float | None, float | None]:
    """The 95 % interval of an estimate with a normal error; (None, None) where its standard error is not finite."""
    return (value - NORMAL_95 * se, value + NORMAL_95 * se) if math.isfinite(se) else (None, None)


def t_quantile(clusters: int, share: float = 0.95) -> float:
    """Standard errors on either side of an interval whose standard error comes from independent clusters.

    Student's t with clusters − 1 degrees of freedom; NaN for one cluster.
    """
    from scipy.special import stdtrit

    return float(stdtrit(clusters - 1, (1 + share) / 2)) if clusters > 1 else math.nan


def t_interval(value: float, se: float, clusters: int) -> tuple[float | None, float | None]:
    """The 95 % interval of an estimate whose standard error is of clusters; (None, None) where that is not finite."""
    reach = t_quantile(clusters) * se
    return (value - reach, value + reach) if math.isfinite(reach) else (None, None)
