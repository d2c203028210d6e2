"""How the inner loops are compiled: once a machine and version, kept beside the source or in the user's cache.

What a loop takes from another file is compiled in and would outlive a change there, so loops that call each other and
their constants share one file, whose change makes the kept code void.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba


def compiled(*fastmath: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """numba's njit without the GIL, with IEEE division and the liberties that LLVM may take with floats."""

    def decorate(loop: Callable[..., Any]) -> Callable[..., Any]:
        compiling: Any = partial(numba.njit, nogil=True, error_model="numpy", fastmath=set(fastmath))
        try:
            return compiling(cache=True)(loop)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written: compiled each time
            return compiling()(loop)

    return decorate
