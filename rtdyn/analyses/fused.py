"""Sums over the vocabulary in one pass through memory: what a pair of position and neuron costs exactly.

Array libraries would write z, e^z and p·e^z to memory in turn; here a processor core keeps them in its registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROWS = 32
"""Positions that one task takes, so that each row of q is read once for all of them."""
TYPES = 512
"""Types taken at a time; ROWS rows of p and m of this length stay in a core's cache."""
LARGEST = 20.0
"""|z| up to which no type whose p float32 rounds to 0 can count."""
CHUNK_ELEMENTS = {"cpu": 2**19}
"""Size of the arrays that pairs are summed in where there is no fused loop, by device."""
CHUNK_ELEMENTS_ELSEWHERE = 2**24


def exponential_excess(p: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    """Σ_v p_v·(e^z − 1 − z), z_v = Σ_i a_i·m_iv + t·q_v, of k pairs; float64 (k,).

    p (n, V), m (D, n, V) and q (f, V) are float32; a (D, k) and t (k,) are the pairs' coefficients, row and neuron
    (k,) their places in p and q. |z| must not exceed LARGEST. On the CPU the terms are float32, right to about ε of
    z and of themselves, and are summed in short lanes; elsewhere they are float64.
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
    """`exponential_excess` in float64, array by array."""
    result = torch.empty_like(t)
    for some, z in shifts(m, q, a, t, row, neuron):
        result[some] = (p[row[some]] * (torch.expm1(z) - z)).sum(1)
    return result


def _fused(p: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    order = torch.argsort(row // ROWS * len(q) + neuron)
    at, of = row[order].numpy(), neuron[order].numpy()
    a_sorted, t_sorted = (v[..., order].float().contiguous().numpy() for v in (a, t))
    sums = np.zeros(len(order))
    edges = np.searchsorted(at // ROWS, np.arange(len(p) // ROWS + 2))
    arrays = p.numpy(), m.numpy(), q.numpy()
    kernel = _kernel()

    def run(task: int) -> None:
        mine = slice(edges[task], edges[task + 1])
        kernel(*arrays, a_sorted[:, mine], t_sorted[mine], at[mine], of[mine], sums[mine])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(run, range(len(edges) - 1)))
    result = torch.empty(len(order), dtype=torch.float64)
    result[order] = torch.from_numpy(sums)
    return result


@cache
def _kernel() -> Callable[..., None]:
    """The compiled loop over the types and, for some of them at a time, the pairs; it releases the GIL."""
    import numba
    from numba.extending import intrinsic

    number = np.float32
    log2_e, magic = number(1.4426950408889634), number(1.5 * 2**23)
    ln2_high, ln2_low = number(0.693359375), number(-2.12194440e-4)
    # Chebyshev interpolation of (e^x − 1 − x)/x² on |x| ≤ ln(2)/2, right to 1.1e-8 of itself
    c0, c1, c2 = number(0.5), number(0.16666667), number(0.041666463)
    c3, c4, c5 = number(0.0083333105), number(0.0013933686), number(0.0001989103)

    @intrinsic
    def power_of_two(context: Any, rounded: Any) -> Any:
        """2^n from the float magic + n, whose low bits are n."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            integer = context.get_value_type(numba.types.int32)
            n = builder.bitcast(args[0], integer)
            exponent = builder.add(builder.shl(n, integer(23)), integer(127 << 23))
            return builder.bitcast(exponent, context.get_value_type(numba.types.float32))

        return numba.types.float32(numba.types.float32), generate

    @numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
    def excess(z: Any) -> None:
        """e^z − 1 − z in place: with z = n·ln 2 + x, 2^n·(e^x − 1 − x) + (2^n·x − z) + (2^n − 1); no loss at n = 0."""
        for v in range(len(z)):
            rounded = z[v] * log2_e + magic
            n = rounded - magic
            x = (z[v] - n * ln2_high) - n * ln2_low
            tail = c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * c5))))
            scale = power_of_two(rounded)  # type: ignore[call-arg, var-annotated]  # numba passes the context itself
            z[v] = scale * (x * x * tail) + ((scale * x - z[v]) + (scale - number(1)))

    # only here may the compiler reorder additions: a sum must be split into lanes
    @numba.njit(nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
    def dot(p: Any, h: Any) -> Any:
        total = number(0)
        for v in range(len(h)):
            total += p[v] * h[v]
        return total

    @numba.njit(nogil=True, error_model="numpy")
    def kernel(p: Any, m: Any, q: Any, a: Any, t: Any, row: Any, neuron: Any, sums: Any) -> None:
        buffer = np.empty(TYPES, np.float32)
        for start in range(0, p.shape[1], TYPES):
            stop = min(p.shape[1], start + TYPES)
            z = buffer[: stop - start]
            for k in range(len(sums)):
                n, i = row[k], neuron[k]
                q_i, m_n, a_k, t_k = q[i, start:stop], m[0, n, start:stop], a[0, k], t[k]
                for v in range(len(z)):
                    z[v] = a_k * m_n[v] + t_k * q_i[v]
                for direction in range(1, len(m)):
                    m_n, a_k = m[direction, n, start:stop], a[direction, k]
                    for v in range(len(z)):
                        z[v] += a_k * m_n[v]
                excess(z)
                sums[k] += dot(p[n, start:stop], z)

    compiled: Callable[..., None] = kernel
    return compiled
