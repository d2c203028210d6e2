"""Intervals of estimates whose error is normal."""

from __future__ import annotations

import math

NORMAL_95 = 1.959963984540054
"""Standard errors on either side of a 95 % interval."""
QUANTILES_95 = (0.025, 0.975)
"""Those between which 95 % lie."""


def normal_interval(value: float, se: float) -> tuple[float | None, float | None]:
    """The 95 % interval of an estimate with a normal error; (None, None) where its standard error is not finite."""
    return (value - NORMAL_95 * se, value + NORMAL_95 * se) if math.isfinite(se) else (None, None)
