"""What a cap on the logits makes of them at some positions: l' = c·tanh(l/c), and weighted averages of its derivatives.

With T = tanh(l/c) the cap's derivatives are S = 1 − T², −2TS/c and −2S(1 − 3T²)/c². They are at most 1,
4/(3√3·c) and 2/c² in size, which is where `CURVATURE` and `THIRD` come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.block_sizes import slices
from rtdyn.analyses.influence.unembedding import Unembedding

CURVATURE, THIRD = 4 / (3 * 3**0.5), 2.0
"""Most of the cap's second derivative times c, and of its third times c²."""


@dataclass(frozen=True)
class Averages:
    """Σ_v w_v·(…) over the vocabulary for weights w (n, V) that need not sum to 1; m and u are centred. float64."""

    total: Tensor
    """(n, 1): of 1."""
    row: Tensor
    """(n, d): of u."""
    m: Tensor
    """(D, n, 1)."""


@dataclass(frozen=True)
class Bend:
    """Of n positions of a model whose logits are capped. float64 unless said."""

    cap: float
    """c."""
    tangent: Tensor
    """float32 (n, V): T."""
    slope: Tensor
    """float32 (n, V): S."""
    level: Tensor
    """(D, n, 1): what was taken off m, which counts where the cap bends."""
    targets: Tensor
    """int64 (n,): the targets' ids."""
    target: Tensor
    """(n, 1): the target's logit before the cap."""
    largest: Tensor
    """(n, 1): max |l|."""
    first: Averages
    """By p·S."""
    second: Averages
    """By p·(S² − 2TS/c)."""
    second_products: Tensor
    """(D, D, n, 1): of m·m by the same weights."""
    second_m_row: Tensor
    """(D, n, d): of m·u by the same weights, terms float32."""

    def second_weights(self, p: Tensor, types: slice) -> Tensor:
        """float32 (n, types): p·(S² − 2TS/c) of p (n, V)."""
        slope = self.slope[:, types]
        return p[:, types] * slope * (slope - self.tangent[:, types] * (2 / self.cap))


class BendOf:
    """Gathers the `Bend` of n positions, some positions at a time."""

    def __init__(self, u: Unembedding, positions: int) -> None:
        assert u.cap is not None and u.projection is None
        self.u, self.cap = u, u.cap
        self.tangent, self.slope = torch.empty(2, positions, len(u.fixed), device=u.rows.device)
        self.largest = torch.empty(positions, 1, dtype=torch.float64, device=u.rows.device)
        self.parts: list[tuple[Tensor, ...]] = []

    def capped(self, rows: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the capped logits in the place of the logits (n, V) at these positions; returns T and S, float64."""
        self.largest[rows] = torch.stack(torch.aminmax(logits, dim=1, keepdim=True)).abs().amax(0)
        logits /= self.cap
        slope = logits.cosh().square_().reciprocal_()
        tangent = logits.tanh()
        self.tangent[rows], self.slope[rows] = tangent, slope
        torch.mul(tangent, self.cap, out=logits)
        return tangent, slope

    def add(self, p: Tensor, m: Tensor, bent: tuple[Tensor, Tensor], level: Tensor, target: Tensor) -> None:
        """The next positions: p (n, V), m (D, n, V), T and S, overwritten, and Bend's level and target; float64."""
        tangent, slope = bent
        second = tangent.mul_(-2 / self.cap).add_(slope)
        slope *= p
        second *= slope
        products = torch.stack([along_types(m, second * m_i) for m_i in m])
        self.parts.append((target, level, *self._averages(slope, m), *self._averages(second, m), products))

    def _averages(self, weights: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The fields of `Averages`, of weights (n, V) and m (D, n, V)."""
        row = torch.zeros(len(weights), len(self.u.mean), dtype=torch.float64, device=weights.device)
        for chunk, types in self.u.chunks():
            row.addmm_(weights[:, chunk], types)
        return weights.sum(1, keepdim=True), row, along_types(m, weights)

    def result(self, p: Tensor, m: Tensor, targets: Tensor, lane: int) -> Bend:
        """Of all positions: p float32 (n, V), m (D, n, V), targets (n,). lane: types that a float32 sum runs over."""
        target, level, *averages, products = (torch.cat(columns, dim=-2) for columns in zip(*self.parts, strict=True))
        first, second = Averages(*averages[:3]), Averages(*averages[3:])
        m_row = torch.zeros(len(m), len(p), len(self.u.mean), dtype=torch.float64, device=p.device)
        bend = Bend(
            self.cap, self.tangent, self.slope, level, targets, target, self.largest, first, second, products, m_row
        )
        for types in slices(p.shape[1], lane):
            rows, weights = self.u.at(types).float(), bend.second_weights(p, types)
            for m_i, m_row_i in zip(m, m_row, strict=True):
                m_row_i += (weights * m_i[:, types]) @ rows
        return bend


def along_types(m: Tensor, weights: Tensor) -> Tensor:
    """(D, n, 1): Σ_v weights·m of m (D, n, V) and weights (n, V), without an array of that size."""
    return torch.stack([(m_i[:, None] @ weights[:, :, None])[:, 0] for m_i in m])
