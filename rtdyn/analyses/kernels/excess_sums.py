"""Σ_v p_v·(e^z − 1 − z) over the vocabulary, for pairs of a position and a neuron."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from rtdyn.analyses.kernels.compiled import compiled

TYPES = 512
"""Types taken at a time: their shifts stay in the processor's first cache."""

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


@compiled("contract")
def excess(z: Any) -> None:
    """e^z − 1 − z in place, without loss at n = 0.

    With z = n·ln 2 + x it is

        2^n·(e^x − 1 − x) + (2^n·x − z) + (2^n − 1).
    """
    for v in range(len(z)):
        rounded = z[v] * log2_e + magic
        n = rounded - magic
        x = (z[v] - n * ln2_high) - n * ln2_low
        tail = c0 + x * (c1 + x * (c2 + x * (c3 + x * (c4 + x * c5))))
        scale = power_of_two(rounded)  # type: ignore[call-arg, var-annotated]  # numba passes the context itself
        z[v] = scale * (x * x * tail) + ((scale * x - z[v]) + (scale - number(1)))


# only here may the compiler reorder additions: a sum must be split into lanes
@compiled("contract", "reassoc")
def dot(p: Any, h: Any) -> Any:
    """Σ_v p_v·h_v."""
    total = number(0)
    for v in range(len(h)):
        total += p[v] * h[v]
    return total


@compiled()
def shift(z: Any, m: Any, q: Any, a: Any, t: Any, n: int, i: int, k: int, start: int) -> None:
    """Σ_j a_j·m_j + t·q in the place of z, at the types from `start` on, of pair k: of position n and neuron i."""
    stop = start + len(z)
    q_i, m_n, a_k, t_k = q[i, start:stop], m[0, n, start:stop], a[0, k], t[k]
    for v in range(len(z)):
        z[v] = a_k * m_n[v] + t_k * q_i[v]
    for direction in range(1, len(m)):
        m_n, a_k = m[direction, n, start:stop], a[direction, k]
        for v in range(len(z)):
            z[v] += a_k * m_n[v]


@compiled()
def excess_sums(p: Any, m: Any, q: Any, a: Any, t: Any, row: Any, neuron: Any, sums: Any) -> None:
    """Adds to sums (k,) those of the pairs (row, neuron), z = Σ_i a_i·m_i + t·q; arrays as for `fused`, contiguous."""
    buffer = np.empty(TYPES, np.float32)
    for start in range(0, p.shape[1], TYPES):
        stop = min(p.shape[1], start + TYPES)
        z = buffer[: stop - start]
        for k in range(len(sums)):
            n = row[k]
            shift(z, m, q, a, t, n, neuron[k], k, start)
            excess(z)
            sums[k] += dot(p[n, start:stop], z)
