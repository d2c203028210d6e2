"""How surprising each type is at each position, against the model itself and against token frequency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.block_sizes import slices
from rtdyn.analyses.influence.position_block import PositionBlock
from rtdyn.analyses.influence.unembedding import Unembedding


@dataclass(frozen=True)
class Weighted:
    """A function g of the types with E g = 0 under some p, float64 unless said."""

    weights: Tensor
    """float32 (n, V): p·g."""
    row: Tensor
    """(n, d): E[g·u]."""
    sd: Tensor
    """(n, 1): √(E g²)."""
    largest: Tensor
    """(n, 1): max |g|."""


@dataclass(frozen=True)
class Surprise:
    """What the changes of entropy and KL need of n positions, float64; S types have counts."""

    entropy: Tensor
    """(n,): H(p)."""
    kl: Tensor
    """(n,): KL of p, conditioned on the S types, to f."""
    known: int
    """S."""
    share: Tensor
    """(n, 1): what p gives the S types."""
    known_row: Tensor
    """(n, d): the mean u under p conditioned, less that under p."""
    of_entropy: Weighted
    """ℓ."""
    of_kl: Weighted
    """κ, under p conditioned."""


def surprise(at: PositionBlock, u: Unembedding, log_f: Tensor, softmax_rows: int) -> Surprise:
    """ℓ and κ from logits in float64, `softmax_rows` positions at a time. log_f: (S,)."""
    known = len(log_f)
    weights = torch.zeros(2, *at.p.shape, device=at.p.device)
    parts = []
    for some in slices(len(at.p), softmax_rows):
        log_p = torch.log_softmax(u.logits(at.factors[0, some]), dim=1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(1, keepdim=True)
        share = p[:, :known].sum(1, keepdim=True)
        conditioned = p[:, :known] / share
        ratio = log_p[:, :known] - share.log() - log_f
        kl = (conditioned * ratio).sum(1, keepdim=True)
        # the types without counts are few, so that their part of the mean row is cheap
        known_row = (at.row[some] - _mean_rows(p[:, known:], u, known)) / share
        averages = [entropy[:, 0], kl[:, 0], share, known_row - at.row[some]]
        for i, (probability, g) in enumerate(((p, log_p + entropy), (conditioned, ratio - kl))):
            weighted = probability * g
            weights[i, some, : g.shape[1]] = weighted
            averages += [
                _mean_rows(weighted, u),
                (weighted * g).sum(1, keepdim=True).sqrt(),
                g.abs().amax(1, keepdim=True),
            ]
        parts.append(averages)
    entropy, kl, share, row, *rest = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Surprise(entropy, kl, known, share, row, Weighted(weights[0], *rest[:3]), Weighted(weights[1], *rest[3:]))


def _mean_rows(weights: Tensor, u: Unembedding, start: int = 0) -> Tensor:
    """Σ_v weights·u_v, (n, d), of weights (n, S) on the S types from `start` on."""
    result = torch.zeros(len(weights), len(u.mean), dtype=torch.float64, device=weights.device)
    for chunk, rows in u.chunks(start):
        mine = weights[:, chunk.start - start : chunk.stop - start]
        result.addmm_(mine, rows[: mine.shape[1]])
    return result
