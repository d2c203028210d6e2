"""Σ_v p_v·(e^z − 1 − z) and Σ_v p_v·z² over a position's likely types, for pairs of a position and a neuron."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled
from rtdyn.analyses.kernels.excess_sums import TYPES, dot, excess, number


# only here may the compiler reorder additions: a sum must be split into lanes
@compiled("contract", "reassoc")
def squares(p: Any, z: Any) -> Any:
    """Σ_v p_v·z_v²."""
    total = number(0)
    for v in range(len(z)):
        total += p[v] * (z[v] * z[v])
    return total


@compiled()
def likely_sums(
    p: Any, m: Any, types: Any, starts: Any, q: Any, a: Any, t: Any, row: Any, neuron: Any, sums: Any
) -> None:
    """Adds both sums of the pairs (row, neuron) to sums (k, 2), z = Σ_i a_i·m_i + t·q.

    types: int32 (T,), those of position n from starts[n] to starts[n + 1]; p (T,) and m (D, T) are theirs. q (f, V),
    a (D, k) and t (k,). float32 but for the sums.
    """
    buffer = np.empty(TYPES, np.float32)
    for k in range(len(sums)):
        n, q_i, t_k = row[k], q[neuron[k]], t[k]
        for start in range(starts[n], starts[n + 1], TYPES):
            stop = min(starts[n + 1], start + TYPES)
            z, types_n, p_n = buffer[: stop - start], types[start:stop], p[start:stop]
            m_n, a_k = m[0, start:stop], a[0, k]
            for v in range(len(z)):
                z[v] = a_k * m_n[v] + t_k * q_i[types_n[v]]
            for direction in range(1, len(m)):
                m_n, a_k = m[direction, start:stop], a[direction, k]
                for v in range(len(z)):
                    z[v] += a_k * m_n[v]
            sums[k, 1] += squares(p_n, z)
            excess(z)
            sums[k, 0] += dot(p_n, z)
