"""How fast this machine is at what a step consists of, in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.fused import exponential_excess
from rtdyn.analyses.influence.pairs import product_precision
from rtdyn.cost.operations import Operations
from rtdyn.model.sizes import ModelShape

SECONDS = 0.6
"""For each measurement. Its best repetition counts, and each is of milliseconds, so that other work on the machine
counts little."""
REPEATS = 3
ROWS = {"cpu": 128, "cuda": 8192}
"""Of the products that are timed, a thread's."""
WIDTH, COLUMNS = 512, 512
"""Most of these products; larger ones run little faster."""
PASSED = 2**18
PAIRS = (64, 128)
"""Positions and neurons."""


@dataclass(frozen=True)
class Rates:
    """How much of each kind of `Operations` this machine does in a second."""

    float32: float
    float64: float
    narrow: float
    exact: float
    passed: float
    loaded: float

    def seconds(self, operations: Operations) -> float:
        """How long they take, one kind after another."""
        return (
            operations.float32 / self.float32
            + operations.float64 / self.float64
            + operations.narrow / self.narrow
            + operations.exact / self.exact
            + operations.passed / self.passed
            + operations.loaded / self.loaded
        )


def seconds_on(device: str, at_least: float = SECONDS) -> Callable[[ModelShape, Operations], float]:
    """How long a model's operations take on this device, measured once for models that are timed alike.

    at_least: seconds of each measurement.
    """
    known: dict[tuple[int, int], Rates] = {}

    def seconds(model: ModelShape, operations: Operations) -> float:
        key = _timed(model)
        if key not in known:
            known[key] = rates_of(model, device, at_least)
        return known[key].seconds(operations)

    return seconds


def rates_of(model: ModelShape, device: str, at_least: float = SECONDS) -> Rates:
    """The rates at this model's width and vocabulary, or as much of them as takes some milliseconds."""
    d, v = _timed(model)
    rows = ROWS[device] * (torch.get_num_threads() if device == "cpu" else 1)
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*size, generator=generator).to(device, dtype)

    def products(inner: int, columns: int, dtype: torch.dtype) -> float:
        left, right = normal(rows, inner, dtype=dtype), normal(columns, inner, dtype=dtype)
        return 2.0 * rows * inner * columns / _best(lambda: left @ right.T, device, at_least)

    numbers, half = normal(PASSED, dtype=torch.float64), normal(PASSED, dtype=torch.float16)
    n, few = PAIRS
    p, m, q = (normal(rows, v).div_(v) for rows in (n, n, few))
    row, neuron = (torch.arange(n * few, device=device) // few, torch.arange(n * few, device=device) % few)
    t = torch.full((n * few,), 0.01, dtype=torch.float64, device=device)
    return Rates(
        float32=products(d, min(4 * d, COLUMNS), torch.float32),
        float64=products(d, v, torch.float64),
        narrow=products(v, COLUMNS, product_precision(device)),
        exact=n * few * v / _best(lambda: exponential_excess(p, m[None], q, t[None], t, row, neuron), device, at_least),
        passed=PASSED / _best(numbers.exp, device, at_least),
        loaded=PASSED / _best(lambda: half.float().aminmax(), device, at_least),
    )


def _timed(model: ModelShape) -> tuple[int, int]:
    """Width and types of what is timed for a model."""
    return min(model.width, WIDTH), min(model.logits, COLUMNS)


def _best(call: Callable[[], object], device: str, at_least: float) -> float:
    """Least seconds of a call, the first not counted, over at least REPEATS of them and so many seconds."""
    call()
    best, began, times = float("inf"), time.perf_counter(), 0
    while times < REPEATS or time.perf_counter() - began < at_least:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best, times = min(best, time.perf_counter() - start), times + 1
    return best
