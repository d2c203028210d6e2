"""Rotary positions, in place."""

from __future__ import annotations

from typing import Any

from rtdyn.analyses.kernels.compiled import compiled


@compiled("contract")
def rotate(x: Any, cos: Any, sin: Any) -> None:
    """Turns the first r numbers of each head of x (k, T, H, D), in pairs j and j + r/2.

    cos and sin: (T, r), those of the angles.
    """
    half = cos.shape[1] // 2
    for k in range(x.shape[0]):
        for t in range(x.shape[1]):
            for h in range(x.shape[2]):
                for j in range(half):
                    a, b = x[k, t, h, j], x[k, t, h, j + half]
                    x[k, t, h, j] = a * cos[t, j] - b * sin[t, j]
                    x[k, t, h, j + half] = b * cos[t, j + half] + a * sin[t, j + half]
