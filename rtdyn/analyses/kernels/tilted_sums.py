"""What a shift of the logits does to sums over the vocabulary, for all pairs of positions and neurons."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtdyn.analyses.kernels.compiled import compiled

TYPES = 512
"""Types taken at a time: their shifts stay in the processor's first cache."""

number = np.float32
# Taylor series of (e^x − 1 − x)/x² up to x⁷, right to 1e-9 of itself for |x| ≤ 1/2
c0, c1, c2, c3 = number(1 / 2), number(1 / 6), number(1 / 24), number(1 / 120)
c4, c5, c6, c7 = number(1 / 720), number(1 / 5040), number(1 / 40320), number(1 / 362880)


@compiled("contract")
def excess(x: Any, h: Any, halvings: int) -> None:
    """h = e^z − 1 − z and x = z from x = z/2^halvings, by doubling:

    e^2x − 1 − 2x = (e^x − 1)² + 2(e^x − 1 − x).
    """
    for v in range(len(x)):
        y = x[v]
        h[v] = y * y * (c0 + y * (c1 + y * (c2 + y * (c3 + y * (c4 + y * (c5 + y * (c6 + y * c7)))))))
    for _ in range(halvings):
        for v in range(len(x)):
            tilt = h[v] + x[v]
            h[v] = tilt * tilt + number(2) * h[v]
            x[v] *= number(2)


# only here may the compiler reorder additions: sums must be split into lanes
@compiled("contract", "reassoc")
def add(x: Any, h: Any, p: Any, first: Any, second: Any, out: Any) -> None:
    """Adds Σp·h, Σp·z·(h + z), Σfirst·h and Σsecond·h to out (4,)."""
    s0, s1, s2, s3 = number(0), number(0), number(0), number(0)
    for v in range(len(x)):
        s0 += p[v] * h[v]
        s1 += p[v] * (x[v] * (h[v] + x[v]))
        s2 += first[v] * h[v]
        s3 += second[v] * h[v]
    out[0] += s0
    out[1] += s1
    out[2] += s2
    out[3] += s3


@compiled()
def tilted_sums(
    p: Any,
    first: Any,
    second: Any,
    m: Any,
    q: Any,
    a: Any,
    t: Any,
    halvings: Any,
    sums: Any,
    from_row: int,
    to_row: int,
    from_type: int,
    to_type: int,
) -> None:
    """Adds what `add` does, for some positions and types, to sums (N, F, 4); z = Σ_i a_i·m_i + t·q.

    halvings: int8 (N, F), how often z is halved before the series; negative to pass a pair over.
    """
    x_buffer, h_buffer = np.empty(TYPES, np.float32), np.empty(TYPES, np.float32)
    for start in range(from_type, to_type, TYPES):
        stop = min(to_type, start + TYPES)
        x, h = x_buffer[: stop - start], h_buffer[: stop - start]
        for i in range(len(q)):
            q_i = q[i, start:stop]
            for n in range(from_row, to_row):
                times = halvings[n, i]
                if times < 0:
                    continue
                scale = number(0.5) ** times
                m_n, a_n, t_n = m[0, n, start:stop], a[0, n, i] * scale, t[n, i] * scale
                for v in range(len(x)):
                    x[v] = a_n * m_n[v] + t_n * q_i[v]
                for direction in range(1, len(m)):
                    m_n, a_n = m[direction, n, start:stop], a[direction, n, i] * scale
                    for v in range(len(x)):
                        x[v] += a_n * m_n[v]
                excess(x, h, times)
                add(x, h, p[n, start:stop], first[n, start:stop], second[n, start:stop], sums[n, i])
