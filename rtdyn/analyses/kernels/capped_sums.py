"""Σ_v p_v·(e^h − 1 − h) and Σ_v p_v·(h − S·z) of pairs of position and neuron, where a cap makes h of z."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled
from rtdyn.analyses.kernels.excess_sums import TYPES, dot, excess, number, shift

# Chebyshev interpolation of (tanh x − x)/x³ in x² on |x| ≤ 1/2, right to 4e-10 of itself
c0, c1, c2 = number(-0.33333333320), number(0.13333329599), number(-0.05396649878)
c3, c4, c5 = number(0.02183908027), number(-0.00862182106), number(0.00267974257)


@compiled("contract")
def bend(z: Any, bent: Any, tangent: Any, slope: Any, cap: Any) -> None:
    """h in the place of z, and bent = h − S·z.

    x = z/c, τ = tanh x, and T, S are the tanh and sech² of l/c. Then h = cSτ/(1 + Tτ), h − S·z = cS(τ − x − Txτ)/(1 +
    Tτ).
    """
    inverse = number(1) / cap
    for v in range(len(z)):
        x = z[v] * inverse
        u = x * x
        less = x * u * (c0 + u * (c1 + u * (c2 + u * (c3 + u * (c4 + u * c5)))))
        tau = x + less
        along = tangent[v] * tau
        scale = cap * slope[v] / (number(1) + along)
        z[v] = scale * tau
        bent[v] = scale * (less - x * along)


@compiled()
def capped_sums(
    p: Any,
    m: Any,
    q: Any,
    tangent: Any,
    slope: Any,
    a: Any,
    t: Any,
    level: Any,
    cap: Any,
    row: Any,
    neuron: Any,
    sums: Any,
) -> None:
    """Adds to sums (k, 2) both of the pairs (row, neuron), z = level + Σ_i a_i·m_i + t·q; arrays as for `fused`."""
    z_buffer, bent_buffer = np.empty(TYPES, np.float32), np.empty(TYPES, np.float32)
    for start in range(0, p.shape[1], TYPES):
        stop = min(p.shape[1], start + TYPES)
        z, bent = z_buffer[: stop - start], bent_buffer[: stop - start]
        for k in range(len(sums)):
            n, level_k = row[k], level[k]
            shift(z, m, q, a, t, n, neuron[k], k, start)
            for v in range(len(z)):
                z[v] += level_k
            bend(z, bent, tangent[n, start:stop], slope[n, start:stop], cap)
            p_n = p[n, start:stop]
            sums[k, 1] += dot(p_n, bent)
            excess(z)
            sums[k, 0] += dot(p_n, z)
