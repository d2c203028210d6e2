"""Each position's likely types, over which a pair's sum is made first; what the others may add is bounded.

A trained model gives most of the probability to hundreds of types, and nearly all to thousands. `certified.py` has the
bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.kernels.likely_sums import likely_sums
from rtdyn.analyses.threads import in_threads

LIKELY = (4.0, 1 / 16)
"""Probabilities from which a type is likely, as multiples of the mean over all types. The widest pairs are summed by
the first, and those that are still wide by the second."""
MOST = 1 / 8
"""Share of all types beyond which it does not pay, and is not done, to sum the likely ones apart."""
PAIRS = 4096
"""Pairs that one task takes."""
CHUNK_TYPES = {"cpu": 2**19}
"""Types of pairs that are summed at a time where there is no fused loop, by device; one pair may have more."""
CHUNK_TYPES_ELSEWHERE = 2**23


def likely_bytes(vocabulary: int, directions: int) -> int:
    """What a position's `likely_types` take at most, a mean over the positions of a block."""
    of_type = 4 + 4 + 4 * directions  # types, p and m
    return int(len(LIKELY) * MOST * vocabulary * of_type)


@dataclass(frozen=True)
class Likely:
    """The likely types of n positions, T in all, one position after the other."""

    types: Tensor
    """int32 (T,)."""
    starts: Tensor
    """int64 (n + 1,): those of position i are from starts[i] to starts[i + 1]."""
    p: Tensor
    """float32 (T,)."""
    m: Tensor
    """float32 (D, T)."""


def likely_types(p: Tensor, m: Tensor) -> tuple[Likely, ...]:
    """Those of p (n, V) and m (D, n, V), by each probability that leaves few enough."""
    each = (p >= least / p.shape[1] for least in LIKELY)
    return tuple(_chosen(chosen, p, m) for chosen in each if int(chosen.sum()) <= MOST * p.numel())


def _chosen(chosen: Tensor, p: Tensor, m: Tensor) -> Likely:
    """The types that are chosen: bool (n, V)."""
    row, types = chosen.nonzero().T
    starts = torch.zeros(len(p) + 1, dtype=torch.int64, device=p.device)
    torch.cumsum(torch.bincount(row, minlength=len(p)), 0, out=starts[1:])
    return Likely(types.int(), starts, p[row, types], m[:, row, types].contiguous())


def sums_of_likely(likely: Likely, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    """Σ p·(e^z − 1 − z) and Σ p·z² over the likely types, z = Σ_i a_i·m_i + t·q, of k pairs; float64 (2, k).

    q: float32 (f, V). a (D, k) and t (k,) are the pairs' coefficients, row and neuron (k,) their places. |z| must not
    exceed `fused.LARGEST`. On the CPU the terms are float32, right to about ε of z and of themselves. They are summed
    in short lanes. Elsewhere they are float64.
    """
    if q.device.type == "cpu":
        return _fused(likely, q, a, t, row, neuron)
    return unfused(likely, q, a, t, row, neuron)


def unfused(likely: Likely, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    """`sums_of_likely` in float64 (2, pairs), array by array."""
    result = t.new_empty(2, len(t))
    for some in _chunks(likely, row):
        first, stop = likely.starts[row[some]], likely.starts[row[some] + 1]
        lengths = stop - first
        pair = torch.repeat_interleave(torch.arange(len(first), device=q.device), lengths)
        # of each pair's types the first is behind those of all pairs before it
        place = torch.arange(len(pair), device=q.device) + (first - lengths.cumsum(0) + lengths)[pair]
        z = t[some][pair] * q[neuron[some][pair], likely.types[place]]
        for a_i, m_i in zip(a, likely.m, strict=True):
            z += a_i[some][pair] * m_i[place]
        terms = likely.p[place] * torch.stack([torch.expm1(z) - z, z.square()])
        result[:, some] = torch.zeros_like(result[:, some]).index_add_(1, pair, terms)
    return result


def _chunks(likely: Likely, row: Tensor) -> list[slice]:
    """Consecutive pairs at positions row (k,): positions differ by far in how many types are likely."""
    behind = (likely.starts[row + 1] - likely.starts[row]).cumsum(0).cpu()
    size = CHUNK_TYPES.get(row.device.type, CHUNK_TYPES_ELSEWHERE)
    _, pairs = torch.unique_consecutive(behind // size, return_counts=True)
    edges = [0, *pairs.cumsum(0).tolist()]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _fused(likely: Likely, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    # a neuron's q stays in a core's cache, and so do the types of all positions
    order = torch.argsort(neuron * (len(likely.starts) - 1) + row)
    arrays = [v.numpy() for v in (likely.p, likely.m, likely.types, likely.starts, q)]
    a_sorted, t_sorted = (np.ascontiguousarray(v[..., order].float().numpy()) for v in (a, t))
    at, of = row[order].numpy(), neuron[order].numpy()
    sums = np.zeros((len(order), 2))

    def run(start: int) -> None:
        mine = slice(start, start + PAIRS)
        likely_sums(*arrays, a_sorted[:, mine], t_sorted[mine], at[mine], of[mine], sums[mine])

    in_threads(run, range(0, len(order), PAIRS))
    result = torch.empty(2, len(order), dtype=torch.float64)
    result[:, order] = torch.from_numpy(sums.T)
    return result
