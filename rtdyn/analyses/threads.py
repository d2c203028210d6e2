"""Pools over sets of neurons and the like: as many threads as torch has, and one of the linear algebra's own in each.

Threads that BLAS starts for a small matrix wait for each other in busy loops. On a machine with other work that took up
to twenty times as long as one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """The function of each part, in their order. It must let go of the GIL where it is to gain by several threads."""
    threads = torch.get_num_threads()
    with _blas("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
        if threads == 1:
            return [function(part) for part in parts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, parts))


@cache
def _blas(scipy: bool) -> ThreadpoolController:
    # looking for the libraries takes a millisecond; NumPy's is loaded by now, and SciPy's own where SciPy is
    return ThreadpoolController()
