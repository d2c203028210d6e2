"""The change of loss where the last hidden state moves, from few of the vocabulary's V types.

The final norm takes the state at a measured position to x, and a moved state to x + δ. p are the probabilities at x,
and ū = E_p u is the mean row of the unembedding. With z_v = ⟨u_v − ū, δ⟩ and y the target,

    Δ = log(1 + E_p f(z)) − z_y,   f(z) = e^z − 1 − z,

because E_p z = 0. What all types add to first order is in ū, and f is of second order, so that few types tell E_p f.
Each is drawn for itself, more of them where p is large, and weighted by 1/probability. So the sum is unbiased, and so
is its variance (Horvitz & Thompson 1952). Where that is too large, the loss is computed from all V logits.

That choice is no longer unbiased. A type of small p that moves far shows itself where it is drawn, and the sum is made
exact there. Where it is not drawn, both the sum and its variance lack it. As |z_v| ≤ ‖u_v − ū‖·‖δ‖, the sum lacks on
average at most p_v(1 − π_v)·f(‖u_v − ū‖·‖δ‖) of a type drawn with probability π_v. Where that exceeds LEFT_OUT for any
type, all logits are computed too. The types for which it would do so at the least ‖δ‖ are drawn for certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from rtdyn.analyses.earlier_layers.continuation import CleanWindow, logits, losses
from rtdyn.model.anatomy import Anatomy

TOLERANCE = 4e-6
"""Nats, the largest standard error that a pair of neuron and position may carry of the draw. Float32's rounding makes
as much, and a mean over 40 positions or more errs by about 1e-6."""
LEFT_OUT = 1e-4
"""Nats, the most that a pair may lack on average of any one type that may be left out. It is a bound over all
directions of the move, far from what it lacks in one. Of 12,288 pairs in SmolLM2 none lacked over 3e-5."""
SHARE, LEAST, MOST_SHARE = 1 / 12, 512, 1 / 8
"""Share of the types that are drawn, and at least so many; all are summed where that is over the last share."""
CERTAIN = 1 / 8
"""Share of the draw that is certain."""
EVEN = 0.1
"""Share of the draw that is spread evenly over types, should one of small p move far."""
ROUNDS = 6
"""Of scaling probabilities to their sum, which then is right to some percent."""
CLOSER = 3
"""Steps towards the z whose f is given, each from below: f(z) = w is z = log(1 + w + z)."""
WHOLE_NUMBERS, LEAST_ROWS = 2**19, 128
"""Logits that are summed whole together, so that they stay in a processor's caches, and rows of them at least."""
POSITION_NUMBERS = 8
"""Numbers that a position takes of each type while its types are drawn."""


@dataclass(frozen=True)
class Draw:
    """The types drawn for one position."""

    mean_row: Tensor
    """(d,): ū."""
    types: Tensor
    """int64 (m,)."""
    weights: Tensor
    """(m,): p/π, with π the probability of the draw."""
    probability: Tensor
    """(m,): π."""
    reach: Tensor
    """(): ‖δ‖ up to which no type left out exceeds LEFT_OUT."""

    def excess(self, delta: Tensor, unembedding: Tensor, memory_bytes: int) -> tuple[Tensor, Tensor]:
        """E_p f(z) and the draw's variance of it, float64 (k,) each, for δ (k, d) and an unembedding (V, d)."""
        mean, variance = delta.new_zeros(2, len(delta), dtype=torch.float64)
        together = max(1, memory_bytes // (8 * delta.shape[1] + 12 * len(delta)))
        columns = (self.types, self.weights, self.probability)
        for types, weights, probability in zip(*(v.split(together) for v in columns), strict=True):
            z = linear(delta, unembedding[types] - self.mean_row)
            f = z.expm1() - z
            mean += (f @ weights).double()
            variance += (f.square() @ (weights.square() * (1 - probability))).double()
        return mean, variance


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
    draws: Sequence[Draw]
    """Of each position; none where all types are summed."""

    def changes(self, hidden: Tensor, memory_bytes: int) -> Tensor:
        """Δ (k, n), float64 nats, where what leaves the last block at the positions is hidden (k, n, d)."""
        change = hidden.new_zeros(hidden.shape[:2], dtype=torch.float64)
        error = torch.full_like(change, torch.inf)
        unembedding = self.parts.readout.unembedding
        moved = self.parts.final_norm(hidden) - self.normed
        for n, draw in enumerate(self.draws):
            delta = moved[:, n]
            excess, variance = draw.excess(delta, unembedding, memory_bytes)
            of_target = delta @ (unembedding[self.target[n]] - draw.mean_row)
            change[:, n] = excess.log1p() - of_target.double()
            within = delta.norm(dim=1) <= draw.reach
            error[:, n] = torch.where(within, variance.sqrt() / (1 + excess), torch.inf)
        wide = ~(error <= TOLERANCE)
        positions = torch.arange(hidden.shape[1], device=hidden.device).expand(wide.shape)[wide]
        fit = max(LEAST_ROWS, WHOLE_NUMBERS // len(unembedding))
        together = max(1, min(fit, memory_bytes // (12 * len(unembedding))))
        whole = [
            losses(self.parts, some[None], self.target[at])[0].double() - self.loss[at].double()
            for some, at in zip(hidden[wide].split(together), positions.split(together), strict=True)
        ]
        change[wide] = torch.cat(whole) if len(positions) else change.new_empty(0)
        return change


def draw_types(
    parts: Anatomy, clean: CleanWindow, target: Tensor, rng: np.random.Generator, memory_bytes: int
) -> DrawnTypes:
    """The types of one window's measured positions, whose next tokens are target, int64 (n,)."""
    unembedding = parts.readout.unembedding
    drawn = DrawnTypes(parts, parts.final_norm(clean.hidden), clean.loss, target, ())
    expected = drawn_types(len(unembedding))
    if not expected or parts.readout.cap is not None:  # a cap makes z no linear shift
        return drawn
    together = max(1, memory_bytes // (4 * POSITION_NUMBERS * len(unembedding)))
    some = clean.hidden.split(together)
    return replace(drawn, draws=[draw for hidden in some for draw in _draws(parts, hidden, expected, rng)])


def _draws(parts: Anatomy, hidden: Tensor, expected: float, rng: np.random.Generator) -> Iterator[Draw]:
    """Of each position whose last hidden state is a row of hidden (n, d)."""
    unembedding = parts.readout.unembedding
    p = logits(parts, hidden).softmax(-1)
    mean_row = p @ unembedding
    chance = inclusion(p, (1 - CERTAIN) * expected)
    first, types = _reaches(unembedding, mean_row, p, chance).topk(int(CERTAIN * expected) + 1, largest=False)
    reach = first[:, -1]
    chance.scatter_(1, types[:, :-1], 1.0)
    drawn = torch.from_numpy(rng.random(p.shape, dtype=np.float32)).to(p.device) < chance
    for n, of_position in enumerate(drawn):
        types = of_position.nonzero()[:, 0]
        probability = chance[n, types]
        yield Draw(mean_row[n], types, p[n, types] / probability, probability, reach[n])


def _reaches(unembedding: Tensor, mean_row: Tensor, p: Tensor, chance: Tensor) -> Tensor:
    """(n, V): ‖δ‖ up to which LEFT_OUT holds of each type. mean_row (n, d), p and chance (n, V)."""
    square = unembedding.square().sum(1) - 2 * mean_row @ unembedding.T + mean_row.square().sum(1, keepdim=True)
    worth = LEFT_OUT / (p * (1 - chance))
    farthest = (2 * worth).sqrt_().log1p_()  # f of it is at most `worth`
    for _ in range(CLOSER):
        farthest = (worth + farthest).log1p_()
    return farthest / square.clamp_(min=0).sqrt_()


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
