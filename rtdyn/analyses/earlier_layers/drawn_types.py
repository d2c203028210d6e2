"""The change of loss where the last hidden state moves, from few of the vocabulary's V types.

The final norm takes the state at a measured position to x, and a moved state to x + δ. With p the probabilities at x,
ū = E_p u the mean row of the unembedding, z_v = ⟨u_v − ū, δ⟩, and y the target,

    Δ = log(1 + E_p f(z)) − z_y,   f(z) = e^z − 1 − z,

because E_p z = 0. What all types add to first order is in ū, and f is of second order, so that few types tell E_p f.
They are drawn each for itself, more of them where p is large, and weighted by 1/probability: unbiased, with an unbiased
variance (Horvitz & Thompson 1952). Where that is too large, the loss is computed from all V logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from rtdyn.analyses.earlier_layers.continuation import CleanWindow, logits, losses
from rtdyn.model.anatomy import Anatomy

TOLERANCE = 4e-6
"""Nats, the largest standard error that a pair of neuron and position may carry of the draw: float32's rounding makes
as much, and a mean over 40 positions or more errs by under 1e-6."""
SHARE, LEAST, MOST_SHARE = 1 / 12, 512, 1 / 4
"""Share of the types that are drawn, and at least so many; all are summed where that is over the last share."""
EVEN = 0.1
"""Share of the draw that is spread evenly over types, should one of small p move far."""
ROUNDS = 6
"""Of scaling probabilities to their sum, which then is right to some percent."""


@dataclass(frozen=True)
class DrawnTypes:
    """One window's n measured positions, with the types drawn for each."""

    parts: Anatomy
    normed: Tensor
    """(n, d): x, with nothing ablated."""
    loss: Tensor
    """(n,): nats, of the same."""
    target: Tensor
    """int64 (n,)."""
    mean_row: Tensor
    """(n, d): ū."""
    types: Sequence[Tensor]
    """int64 (m,) for each position, m its own; none where all types are summed."""
    weights: Sequence[Tensor]
    """(m,): p/π, with π the probability of the draw."""
    probability: Sequence[Tensor]
    """(m,): π."""

    def changes(self, hidden: Tensor, memory_bytes: int) -> Tensor:
        """Δ (k, n), float64 nats, where what leaves the last block at the positions is hidden (k, n, d)."""
        change = hidden.new_zeros(hidden.shape[:2], dtype=torch.float64)
        error = torch.full_like(change, torch.inf)
        unembedding = self.parts.readout.unembedding
        moved = self.parts.final_norm(hidden) - self.normed
        for n, (types, weights, probability) in enumerate(zip(self.types, self.weights, self.probability, strict=True)):
            z = linear(moved[:, n], unembedding[types] - self.mean_row[n])
            f = z.expm1() - z
            excess = (f @ weights).double()
            of_target = moved[:, n] @ (unembedding[self.target[n]] - self.mean_row[n])
            change[:, n] = excess.log1p() - of_target.double()
            error[:, n] = (f.square() @ (weights.square() * (1 - probability))).double().sqrt() / (1 + excess)
        wide = ~(error <= TOLERANCE)
        positions = torch.arange(hidden.shape[1], device=hidden.device).expand(wide.shape)[wide]
        together = max(1, memory_bytes // (12 * len(unembedding)))
        whole = [
            losses(self.parts, some[None], self.target[at])[0].double() - self.loss[at].double()
            for some, at in zip(hidden[wide].split(together), positions.split(together), strict=True)
        ]
        change[wide] = torch.cat(whole) if len(positions) else change.new_empty(0)
        return change


def draw_types(parts: Anatomy, clean: CleanWindow, target: Tensor, rng: np.random.Generator) -> DrawnTypes:
    """The types of one window's measured positions, whose next tokens are target, int64 (n,)."""
    unembedding, normed = parts.readout.unembedding, parts.final_norm(clean.hidden)
    p = logits(parts, clean.hidden).softmax(-1)
    nothing = DrawnTypes(parts, normed, clean.loss, target, p @ unembedding, (), (), ())
    expected = drawn_types(len(unembedding))
    if not expected or parts.readout.cap is not None:  # a cap makes z no linear shift
        return nothing
    chance = inclusion(p, expected)
    drawn = torch.from_numpy(rng.random(p.shape, dtype=np.float32)).to(p.device) < chance
    types = [row.nonzero()[:, 0] for row in drawn]
    probability = [of_position[ids] for of_position, ids in zip(chance, types, strict=True)]
    weights = [of_position[ids] / pi for of_position, ids, pi in zip(p, types, probability, strict=True)]
    return DrawnTypes(parts, normed, clean.loss, target, nothing.mean_row, types, weights, probability)


def drawn_types(types: int) -> float:
    """Expected draws for a position, of a vocabulary of so many types; 0 where all are summed."""
    expected = max(LEAST, SHARE * types)
    return expected if expected <= MOST_SHARE * types else 0.0


def inclusion(p: Tensor, expected: float) -> Tensor:
    """(n, V): probabilities of the draw that sum to about `expected`, by what each type has of p (n, V)."""
    size = (1 - EVEN) * p + EVEN / p.shape[1]
    scale = torch.full_like(size[:, :1], expected)
    for _ in range(ROUNDS):
        scale *= expected / (size * scale).clamp(max=1).sum(1, keepdim=True)
    return (size * scale).clamp(max=1)
