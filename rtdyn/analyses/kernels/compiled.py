"""How the inner loops are compiled: in each process anew.

numba's cache on the disk is left alone: when several processes fill it at once, or one is cut off while it writes, it
may hand a loop the code of another signature, processor or version (numba 0.68).
"""

from __future__ import annotations

from typing import Any

import numba


def compiled(*fastmath: str) -> Any:
    """numba's njit without the GIL, with IEEE division and the liberties that LLVM may take with floats."""
    return numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath))
