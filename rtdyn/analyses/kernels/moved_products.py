"""Products of a norm's output where its input moves along one direction: no product is needed for them."""

from __future__ import annotations

from typing import Any

from rtdyn.analyses.kernels.compiled import compiled


@compiled("contract")
def moved_products(scale: Any, step: Any, before: Any, along: Any, bias: Any, out: Any) -> None:
    """out (k, T, m) becomes scale (k, T)·before (T, m) + step (k, T)·along (k, m) + bias (m,)."""
    for k in range(out.shape[0]):
        row = along[k]
        for t in range(out.shape[1]):
            a, b, entry, kept = scale[k, t], step[k, t], out[k, t], before[t]
            for m in range(len(bias)):
                entry[m] = a * kept[m] + b * row[m] + bias[m]
