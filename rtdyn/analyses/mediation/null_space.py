"""The share of ‖w̃_i‖² in the k lowest right singular directions of the centred unembedding (METHODS §2(c))."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.groups.correlations import inner_products
from rtdyn.analyses.influence.block_sizes import slices
from rtdyn.analyses.influence.logit_shift import written_rows
from rtdyn.capture.forward_pass import Capture
from rtdyn.model.anatomy import Readout

LOWEST_SHARE = 0.05
"""Share of the unembedding's singular directions that count as its null space."""
DISTINCT = 1e-10
"""Smallest gap between squared singular values that tells two directions apart, relative to the largest."""


@dataclass(frozen=True)
class LowestDirections:
    """The lowest right singular directions of a model's centred unembedding, the same for every layer."""

    directions: Tensor
    """float64 (d, k)."""
    distinct: bool
    """Whether they differ from the next."""


@dataclass(frozen=True)
class NullSpace:
    """Share of each neuron's output row in the lowest singular directions of the unembedding."""

    k: int
    """How many directions count as lowest."""
    squared_share: Tensor
    """float64 (F,): ‖V₀ᵀw̃‖²/‖w̃‖²; NaN where `reason` says why."""
    reason: tuple[str | None, ...]


def lowest_directions(readout: Readout, k: int | None = None) -> LowestDirections:
    """The k lowest singular directions, by default LOWEST_SHARE of all, at least one.

    They are those of U·diag(γ), as with the norm folded into the unembedding [CR]. Where the norm centres, only
    directions orthogonal to the constant one count, which rows cannot have. Rows of U are centred over the vocabulary,
    but where the logits are capped: there a constant added to all logits moves probabilities. Takes O(d²) memory.
    Raises ValueError unless k lies between 1 and the number of directions less one.
    """
    rows = readout.unembedding
    scale = readout.gain.double()
    d = rows.shape[1]
    mean = rows.mean(0, dtype=torch.float64) if readout.cap is None else 0.0
    gram = torch.zeros(d, d, dtype=torch.float64, device=rows.device)
    for chunk in slices(len(rows), 4096):
        gram += inner_products(rows[chunk].double() - mean)
    gram *= scale[:, None] * scale
    dimensions = d
    if readout.centred:
        dimensions = d - 1
        gram = gram - gram.mean(0)
        gram = gram - gram.mean(1, keepdim=True)
        # the constant direction goes to the top, so that the others keep their order below it
        gram += (1 + gram.trace()) / d
    k = max(1, int(LOWEST_SHARE * dimensions)) if k is None else k
    if not 1 <= k < dimensions:
        raise ValueError(f"k must lie between 1 and {dimensions - 1}, not {k}")
    squares, directions = torch.linalg.eigh((gram + gram.T) / 2)
    squares = squares[:dimensions]
    return LowestDirections(directions[:, :k], bool(squares[k] - squares[k - 1] > DISTINCT * squares[-1]))


def null_space(captured: Capture, lowest: LowestDirections | None = None) -> NullSpace:
    """Each neuron's squared share in the lowest singular directions, by default `lowest_directions` of the capture's.

    A random direction's share is k over the number of directions, on average.
    """
    lowest = lowest_directions(captured.anatomy.readout) if lowest is None else lowest
    written = written_rows(captured, slice(None))
    length = written.square().sum(1)
    value = (written @ lowest.directions).square().sum(1) / length
    undefined = (length == 0) | (not lowest.distinct)
    value = value.masked_fill(undefined, torch.nan)
    tied = "the lowest singular directions do not differ from the next"
    return NullSpace(
        k=lowest.directions.shape[1],
        squared_share=value,
        reason=tuple(
            None if not bad else ("the neuron writes nothing" if none else tied)
            for bad, none in zip(undefined.tolist(), (length == 0).tolist(), strict=True)
        ),
    )
