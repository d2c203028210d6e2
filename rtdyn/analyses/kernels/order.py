"""The order of few numbers: numba's own sort takes seconds to compile."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled


@compiled()
def descending(values: Any) -> Any:
    """int64 (n,): the places of values (n,) from the largest down, equal ones as they come. Takes up to n² steps."""
    order = np.arange(len(values))
    for v in range(len(values)):
        at = v
        while at > 0 and values[order[at - 1]] < values[v]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = v
    return order
