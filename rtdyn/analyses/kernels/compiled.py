"""How the inner loops are compiled, or loaded where an earlier process has compiled them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from rtdyn.analyses.kernels.kept_code import with_kept_code


def compiled(*fastmath: str) -> Callable[[Callable[..., Any]], Any]:
    """numba's njit without the GIL, with IEEE division and the liberties that LLVM may take with floats."""

    def decorate(loop: Callable[..., Any]) -> Any:
        def dispatcher(cache: bool) -> Any:
            return numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath), cache=cache)(loop)

        return with_kept_code(f"{loop.__module__}.{loop.__qualname__}", dispatcher)

    return decorate
