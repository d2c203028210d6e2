"""Σ_v p_v·e^{h'} in float64: h' is what a cap makes of a shift, without its part along a vector of the vocabulary."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from rtdyn.analyses.kernels.compiled import compiled

FARTHEST = 700.0
"""Exponents are cut there, where e^x is near the end of float64."""
log2_e, magic = 1.4426950408889634, 1.5 * 2.0**52
ln2_high, ln2_low = 6.93147180369123816490e-01, 1.90821492927058770002e-10
c2, c3, c4, c5, c6, c7 = 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040
c8, c9, c10, c11, c12, c13 = 1 / 40320, 1 / 362880, 1 / 3628800, 1 / 39916800, 1 / 479001600, 1 / 6227020800


@intrinsic
def power_of_two(context: Any, rounded: Any) -> Any:
    """2^n from the float64 magic + n, whose low bits are n."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = context.get_value_type(numba.types.int64)
        n = builder.bitcast(args[0], integer)
        exponent = builder.add(builder.shl(n, integer(52)), integer(1023 << 52))
        return builder.bitcast(exponent, context.get_value_type(numba.types.float64))

    return numba.types.float64(numba.types.float64), generate


@compiled("contract")
def exponential(x: Any) -> None:
    """e^x in place, right to some ε: with x = n·ln 2 + r, 2^n times the Taylor series of e^r for |r| ≤ ln(2)/2."""
    for v in range(len(x)):
        y = min(max(x[v], -FARTHEST), FARTHEST)
        rounded = y * log2_e + magic
        n = rounded - magic
        r = (y - n * ln2_high) - n * ln2_low
        high = c8 + r * (c9 + r * (c10 + r * (c11 + r * (c12 + r * c13))))
        tail = c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * (c7 + r * high)))))
        x[v] = power_of_two(rounded) * (1.0 + (r + r * r * tail))  # type: ignore[call-arg]  # numba passes the context


@compiled("contract", "reassoc")
def moved(x: Any, before: Any, along: Any, cap: float) -> Any:
    """h = cap·(1 − 2/(x + 1)) − before in the place of x = e^{2l'/cap}; Σh and Σalong·h."""
    total, product = 0.0, 0.0
    for v in range(len(x)):
        h = cap * (1.0 - 2.0 / (x[v] + 1.0)) - before[v]
        x[v] = h
        total += h
        product += along[v] * h
    return total, product


@compiled("contract", "reassoc")
def dot(p: Any, x: Any) -> Any:
    """Σ_v p_v·x_v."""
    total = 0.0
    for v in range(len(x)):
        total += p[v] * x[v]
    return total


@compiled("contract")
def shifted(x: Any, m: Any, q: Any, logits: Any, a: Any, t: float, level: float, scale: float) -> None:
    """scale·(logits + level + Σ_i a_i·m_i + t·q) in the place of x; m (D, V)."""
    for v in range(len(x)):
        x[v] = logits[v] + level + t * q[v]
    for direction in range(len(m)):
        m_i, a_i = m[direction], a[direction]
        for v in range(len(x)):
            x[v] += a_i * m_i[v]
    for v in range(len(x)):
        x[v] *= scale


@compiled("contract")
def projected(x: Any, kept: Any, along: Any, mean: float, part: float) -> None:
    """kept·(x − mean) − part·along in the place of x."""
    for v in range(len(x)):
        x[v] = kept[v] * (x[v] - mean) - part * along[v]


@compiled()
def frozen_sums(
    logits: Any,
    before: Any,
    p: Any,
    m: Any,
    q: Any,
    kept: Any,
    along: Any,
    cap: float,
    a: Any,
    t: Any,
    level: Any,
    neuron: Any,
    sums: Any,
) -> None:
    """Fills sums (k, 3) of k pairs of one position: Σ_v p_v·e^{h'_v}, the mean of h, and its part along the vector.

    h' = kept·(h − mean) − part·along, h = g(logits + z) − before, z = level + Σ_i a_i·m_i + t·q. logits, before =
    g(logits), p, kept and along: float64 (V,). m: float32 (D, V), q float32 (f, V). a (D, k), t, level and neuron (k,).
    """
    x = np.empty(len(p))
    constant = dot(kept, along)
    for k in range(len(sums)):
        shifted(x, m, q[neuron[k]], logits, a[:, k], t[k], level[k], 2.0 / cap)
        exponential(x)
        total, product = moved(x, before, along, cap)
        mean = total / len(x)
        part = product - mean * constant
        projected(x, kept, along, mean, part)
        exponential(x)
        sums[k, 0], sums[k, 1], sums[k, 2] = dot(p, x), mean, part
