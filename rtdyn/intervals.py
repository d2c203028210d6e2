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


def skewed_interval(value: float, se: float, skewness: float, clusters: int) -> tuple[float | None, float | None]:
    """The 95 % interval of a mean over clusters whose contributions have this skewness; (None, None) without one.

    Hall's cubic transformation (1992) of t is t + a·(t²/3 + 1/6) + a²·t³/27 with a = skewness/√clusters. It is
    Student's to the next order, and each end of the interval solves it. Without skewness this is `t_interval`. The
    cubic is flat at t = −3/a, so that near it an end leaps: of few clusters one may give such an a. So a goes no
    farther than to where the farther end moves with the quantile four times as fast as t itself does. There that end
    lies 3/(2a) standard errors away.
    """
    reach = t_quantile(clusters)
    if not math.isfinite(reach * se * skewness):
        return None, None
    most = 3 * (math.sqrt(reach**2 + 7 / 12) - reach)  # solves 1 − a·(reach + a/6) = 1/8, whose cube root is 1/2
    a = max(-most, min(most, skewness / math.sqrt(clusters)))
    if abs(a) < 1e-9:
        return value - reach * se, value + reach * se
    low, high = (value - se * 3 / a * (math.cbrt(1 + a * (q - a / 6)) - 1) for q in (reach, -reach))
    return low, high


def t_interval(value: float, se: float, clusters: int) -> tuple[float | None, float | None]:
    """The 95 % interval of an estimate whose standard error is of clusters; (None, None) where that is not finite."""
    reach = t_quantile(clusters) * se
    return (value - reach, value + reach) if math.isfinite(reach) else (None, None)
