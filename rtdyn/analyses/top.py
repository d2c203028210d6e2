"""How many neurons are the most influential ones (METHODS §4)."""

from __future__ import annotations

import math

TOP_SHARE = 0.01
"""Of a layer's neurons."""
MIN_TOP = 32
"""Members of `top` in a small layer, so that its statistics are defined."""


def top_size(neurons: int) -> int:
    """Members of `top`."""
    return min(neurons, max(MIN_TOP, math.ceil(TOP_SHARE * neurons)))
