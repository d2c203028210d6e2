"""Sums over the vocabulary that the changes of confidence need, for all pairs of position and neuron."""

from __future__ import annotations

import torch
from torch import Tensor

from rtdyn.analyses.influence import fused
from rtdyn.analyses.influence.fused import ROWS
from rtdyn.analyses.kernels.tilted_sums import tilted_sums
from rtdyn.analyses.threads import in_threads

TERMS = 4
"""Sums a pair needs: of p·h, p·z(e^z − 1), p·ℓ·h and p·κ·h."""


def vocabulary_sums(
    p: Tensor, first: Tensor, second: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, largest: Tensor, known: int
) -> Tensor:
    """Σ_v of p·h, p·z(e^z − 1), first·h and second·h, h = e^z − 1 − z, for all n·f pairs; float64 (4, 2, n, f).

    Over the first `known` types, and over the others. p, first and second (n, V), m (D, n, V) and q (f, V) are
    float32. a (D, n, f), t (n, f) are the coefficients of z = Σ_i a_i·m_i + t·q, `largest` (n, f) a bound of |z|. Pairs
    beyond `fused.LARGEST` are left 0. On the CPU the terms are float32, elsewhere float64.
    """
    tame = largest <= fused.LARGEST
    parts = [slice(0, known), slice(known, p.shape[1])]
    sums = torch.zeros(2, *t.shape, TERMS, dtype=torch.float64, device=t.device)
    if p.device.type == "cpu":
        # 2^-halvings·|z| ≤ 1/2
        halvings = torch.where(tame, torch.log2(largest.clamp(min=0.5)).add(1).ceil(), -1).to(torch.int8).numpy()

        # whole arrays, since a loop over the types is only vectorised where the compiler knows them to be contiguous
        arrays = [v.numpy() for v in (p, first, second, m, q, a.float().contiguous(), t.float().contiguous())]

        def run(start: int) -> None:
            for part, out in zip(parts, sums.numpy(), strict=True):
                tilted_sums(*arrays, halvings, out, start, min(start + ROWS, len(t)), part.start, part.stop)

        in_threads(run, range(0, len(p), ROWS))
    else:
        row, neuron = tame.nonzero().T
        for some, z in fused.shifts(m, q, a[:, row, neuron], t[row, neuron], row, neuron):
            tilt = torch.expm1(z)
            at, of, h = row[some], neuron[some], tilt - z
            for out, part in zip(sums, parts, strict=True):
                terms = ((p, h), (p, z * tilt), (first, h), (second, h))
                out[at, of] = torch.stack([(w[at, part] * v[:, part]).sum(1) for w, v in terms], dim=1)
    return sums.permute(3, 0, 1, 2)
