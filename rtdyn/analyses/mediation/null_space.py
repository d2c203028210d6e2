"""The share of output weights in the unembedding's lowest singular directions (METHODS §2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.block_sizes import slices
from rtdyn.analyses.influence.logit_shift import written_rows
from rtdyn.capture.forward_pass import Capture

LOWEST_SHARE = 0.05
"""Share of the unembedding's singular directions that count as its null space."""


DISTINCT = 1e-10
"""Smallest gap between squared singular values that tells two directions apart, relative to the largest."""


@dataclass(frozen=True)
class NullSpace:
    """Share of each neuron's output row in the lowest singular directions of the unembedding."""

    k: int
    """How many directions count as lowest."""
    squared_share: Tensor
    """float64 (F,): ‖V₀ᵀw̃‖²/‖w̃‖²; NaN where `reason` says why."""
    p_value: Tensor
    """float64 (F,): share of random directions with at least this squared share."""
    null_mean: float
    """Expected squared share of a random direction: k over the dimensions that a row may take."""
    null_sd: float
    singular_values: Tensor
    """float64, ascending: all of the unembedding's."""
    reason: tuple[str | None, ...]


def null_space(
    captured: Capture, k: int | None = None, *, share: float = LOWEST_SHARE, gain: str = "unembedding"
) -> NullSpace:
    """Each neuron's squared share in the k lowest singular directions, by default `share` of all, at least one.

    gain: `unembedding` takes w̃ in the singular directions of U·diag(γ), as with the norm folded into the unembedding
    [CR]; where the norm centres, only directions orthogonal to the constant one count, which rows cannot have.
    `write` takes γ∘w̃ in those of U. Rows of U are centred over the vocabulary. Takes O(d²) memory. Raises ValueError
    unless 1 ≤ k < d.
    """
    from scipy.special import betainc

    if gain not in ("unembedding", "write"):
        raise ValueError(f"gain must be `unembedding` or `write`, not {gain!r}")
    readout = captured.anatomy.readout
    rows = readout.unembedding
    written = written_rows(captured, slice(None))
    scale = readout.gain.double()
    d = rows.shape[1]
    mean = rows.mean(0, dtype=torch.float64)
    gram = torch.zeros(d, d, dtype=torch.float64, device=rows.device)
    for chunk in slices(len(rows), 4096):
        centred = rows[chunk].double() - mean
        gram.addmm_(centred.T, centred)
    dimensions = d
    if gain == "write":
        written = written * scale
    else:
        gram *= scale[:, None] * scale
        if readout.centred:
            dimensions = d - 1
            gram = gram - gram.mean(0)
            gram = gram - gram.mean(1, keepdim=True)
            # the constant direction goes to the top, so that the others keep their order below it
            gram += (1 + gram.trace()) / d
    k = max(1, int(share * dimensions)) if k is None else k
    if not 1 <= k < dimensions:
        raise ValueError(f"k must lie between 1 and {dimensions - 1}, not {k}")
    squares, directions = torch.linalg.eigh((gram + gram.T) / 2)
    squares = squares[:dimensions]
    length = written.square().sum(1)
    distinct = bool(squares[k] - squares[k - 1] > DISTINCT * squares[-1])
    value = (written @ directions[:, :k]).square().sum(1) / length
    undefined = (length == 0) | (not distinct)
    value = value.masked_fill(undefined, torch.nan)
    upper = betainc((dimensions - k) / 2, k / 2, (1 - value).clamp(0, 1).cpu().numpy())
    tied = "the lowest singular directions do not differ from the next"
    return NullSpace(
        k=k,
        squared_share=value,
        p_value=torch.from_numpy(upper).to(value.device),
        null_mean=k / dimensions,
        null_sd=(2 * k * (dimensions - k) / (dimensions**2 * (dimensions + 2))) ** 0.5,
        singular_values=squares.clamp(min=0).sqrt(),
        reason=tuple(
            None if not bad else ("the neuron writes nothing" if none else tied)
            for bad, none in zip(undefined.tolist(), (length == 0).tolist(), strict=True)
        ),
    )
