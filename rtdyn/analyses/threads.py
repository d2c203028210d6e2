"""Pools over sets of neurons and the like: as many threads as torch has, and one of the linear algebra's own in each.

Threads that BLAS starts for a small matrix wait for each other in busy loops. On a machine with other work that took up
to twenty times as long as one thread.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

SMALL = 1024
"""Neurons of a layer up to which NumPy's threads cost more than they save: between products they wait in busy loops."""

AHEAD = 2
"""Parts a thread that are begun before the first of their results is taken."""

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


def in_whole_threads(function: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """The function of each part, in their order, where it is made of torch's own operations: a part keeps to a thread.

    Torch's threads would wait for each other at every small operation. Grad and inference modes are each thread's own.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(part) for part in parts]
    with _whole_threads() as pool:
        return list(pool.map(function, parts))


def in_whole_threads_ahead(function: Callable[[T], R], parts: Iterable[T]) -> Iterator[R]:
    """As `in_whole_threads`, one result after another. Those of AHEAD parts a thread are made before they are taken."""
    most, waiting = AHEAD * torch.get_num_threads(), deque[Future[R]]()
    with _whole_threads() as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(function, part))
                if len(waiting) == most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _whole_threads() -> Iterator[ThreadPoolExecutor]:
    """As many as torch has, each of which runs torch's operations alone."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def few_numpy_threads(neurons: int) -> AbstractContextManager[object]:
    """One thread for each of NumPy's own products while it is open, where a layer has no more than SMALL neurons."""
    if neurons > SMALL:
        return nullcontext()
    return _blas("scipy.linalg" in sys.modules).select(internal_api="openblas").limit(limits=1)


@cache
def _blas(scipy: bool) -> ThreadpoolController:
    # looking for the libraries takes a millisecond; NumPy's is loaded by now, and SciPy's own where SciPy is
    return ThreadpoolController()
