"""Sums over the vocabulary in one pass through memory: what a pair of position and neuron costs exactly.

Array libraries would write z, e^z and p·e^z to memory in turn; here a processor core keeps them in its registers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.kernels.capped_sums import capped_sums
from rtdyn.analyses.kernels.excess_sums import excess_sums
from rtdyn.analyses.kernels.frozen_sums import frozen_sums
from rtdyn.analyses.threads import in_threads

ROWS = 32
"""Positions that one task takes: their rows of p and m stay in a core's cache, and each row of q is read once."""
LARGEST = 20.0
"""|z| up to which no type whose p float32 rounds to 0 can count."""
CHUNK_ELEMENTS = {"cpu": 2**19}
"""Size of the arrays that pairs are summed in where there is no fused loop, by device."""
CHUNK_ELEMENTS_ELSEWHERE = 2**24
Cap = tuple[Tensor, Tensor, float]


def exponential_excess(p: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    """Σ_v p_v·(e^z − 1 − z), z_v = Σ_i a_i·m_iv + t·q_v, of k pairs; float64 (k,).

    p (n, V), m (D, n, V) and q (f, V) are float32. a (D, k) and t (k,) are the pairs' coefficients, row and neuron
    (k,) their places in p and q. |z| must not exceed LARGEST. On the CPU the terms are float32, right to about ε of z
    and of themselves, and are summed in short lanes. Elsewhere they are float64.
    """
    if p.device.type == "cpu":
        return _fused(p, m, q, a, t, row, neuron)
    return unfused(p, m, q, a, t, row, neuron)


def shifts(m: Tensor, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """z of some of the k pairs at a time, float64 (·, V)."""
    size = max(1, CHUNK_ELEMENTS.get(q.device.type, CHUNK_ELEMENTS_ELSEWHERE) // q.shape[1])
    for start in range(0, len(t), size):
        some = slice(start, start + size)
        z = q[neuron[some]].double().mul_(t[some, None])
        for a_i, m_i in zip(a, m, strict=True):
            z += m_i[row[some]] * a_i[some, None]
        yield some, z


def unfused(p: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    """`exponential_excess` in float64 (pairs,), array by array."""
    result = torch.empty_like(t)
    for some, z in shifts(m, q, a, t, row, neuron):
        result[some] = (p[row[some]] * (torch.expm1(z) - z)).sum(1)
    return result


def capped_excess(
    p: Tensor, m: Tensor, q: Tensor, through: Cap, a: Tensor, t: Tensor, level: Tensor, row: Tensor, neuron: Tensor
) -> Tensor:
    """Σ_v p_v·(e^h − 1 − h) and Σ_v p_v·(h − S·z), h what the cap makes of z, of k pairs; float64 (2, k).

    through: tanh(l/c) and its derivative sech², float32 (n, V), and c. level: (k,), added to the z of
    `exponential_excess`, whose other arguments these are. |z| must exceed neither LARGEST nor c/2.
    """
    if p.device.type == "cpu":
        return _capped_fused(p, m, q, through, a, t, level, row, neuron)
    return capped_unfused(p, m, q, through, a, t, level, row, neuron)


def capped_unfused(
    p: Tensor, m: Tensor, q: Tensor, through: Cap, a: Tensor, t: Tensor, level: Tensor, row: Tensor, neuron: Tensor
) -> Tensor:
    """`capped_excess` in float64 (2, pairs), array by array."""
    (tangent, slope, cap), result = through, t.new_empty(2, len(t))
    for some, z in shifts(m, q, a, t, row, neuron):
        z += level[some, None]
        slope_of, tau = slope[row[some]].double(), torch.tanh(z / cap)
        h = cap * slope_of * tau / (1 + tangent[row[some]] * tau)
        result[0, some] = (p[row[some]] * (torch.expm1(h) - h)).sum(1)
        result[1, some] = (p[row[some]] * (h - slope_of * z)).sum(1)
    return result


def _capped_fused(
    p: Tensor, m: Tensor, q: Tensor, through: Cap, a: Tensor, t: Tensor, level: Tensor, row: Tensor, neuron: Tensor
) -> Tensor:
    order, edges = _tasks(p, q, row, neuron)
    at, of = row[order].numpy(), neuron[order].numpy()
    a_sorted, t_sorted, levels = (v[..., order].float().contiguous().numpy() for v in (a, t, level))
    sums = np.zeros((len(order), 2))
    arrays = p.numpy(), m.numpy(), q.numpy(), through[0].numpy(), through[1].numpy()
    cap = np.float32(through[2])

    def run(task: int) -> None:
        mine = slice(edges[task], edges[task + 1])
        capped_sums(*arrays, a_sorted[:, mine], t_sorted[mine], levels[mine], cap, at[mine], of[mine], sums[mine])

    in_threads(run, range(len(edges) - 1))
    result = torch.empty(2, len(order), dtype=torch.float64)
    result[:, order] = torch.from_numpy(sums.T)
    return result


def frozen(
    logits: Tensor,
    before: Tensor,
    p: Tensor,
    m: Tensor,
    q: Tensor,
    kept: Tensor,
    along: Tensor,
    cap: float,
    a: Tensor,
    t: Tensor,
    level: Tensor,
    neuron: Tensor,
) -> Tensor:
    """What `frozen_sums` gives of k pairs of one position, float64 (k, 3); on the CPU alone.

    logits, before, p, kept, along: float64 (V,). m: float32 (D, V), q float32 (f, V). a (D, k), t, level, neuron (k,).
    """
    sums = np.empty((len(t), 3))
    arrays = [v.numpy() for v in (logits, before, p, m, q, kept, along)]
    of_pairs = [v.contiguous().numpy() for v in (a, t, level, neuron)]

    def run(start: int) -> None:
        mine = slice(start, start + ROWS)
        a_k, t_k, level_k, neuron_k = (v[..., mine] for v in of_pairs)
        frozen_sums(*arrays, cap, np.ascontiguousarray(a_k), t_k, level_k, neuron_k, sums[mine])

    in_threads(run, range(0, len(sums), ROWS))
    return torch.from_numpy(sums)


def _fused(p: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    order, edges = _tasks(p, q, row, neuron)
    at, of = row[order].numpy(), neuron[order].numpy()
    a_sorted, t_sorted = (v[..., order].float().contiguous().numpy() for v in (a, t))
    sums = np.zeros(len(order))
    arrays = p.numpy(), m.numpy(), q.numpy()

    def run(task: int) -> None:
        mine = slice(edges[task], edges[task + 1])
        excess_sums(*arrays, a_sorted[:, mine], t_sorted[mine], at[mine], of[mine], sums[mine])

    in_threads(run, range(len(edges) - 1))
    result = torch.empty(len(order), dtype=torch.float64)
    result[order] = torch.from_numpy(sums)
    return result


def _tasks(p: Tensor, q: Tensor, row: Tensor, neuron: Tensor) -> tuple[Tensor, np.ndarray]:
    """The order of the pairs (k,), and where in it each task's begin and end."""
    order = torch.argsort(row // ROWS * len(q) + neuron)
    return order, np.searchsorted(row[order].numpy() // ROWS, np.arange(len(p) // ROWS + 2))
