"""What batches of a forward pass are collected into: rows of an array, and moments of activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOMENT_CHUNK_BYTES = 32 * 2**20
"""Of the activations that are float64 at a time."""


@dataclass(frozen=True)
class NeuronMoments:
    """Post-activations of the final MLP's neurons over the positions that the mean is taken over."""

    n: int
    mean: Tensor
    """float64 (F,): the ā that ablation puts in place."""
    variance: Tensor
    """float64 (F,), population variance."""
    minimum: Tensor
    """(F,)."""
    maximum: Tensor
    """(F,)."""
    positive: Tensor
    """float64 (F,): share of positions with a positive activation."""


class Rows:
    """A float32 array that batches fill from its first row on: put together at the end, it would be held twice."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.array = torch.empty(shape, device=device)
        self.filled = 0

    def add(self, rows: Tensor) -> None:
        """Fills the next rows."""
        self.array[self.filled : self.filled + len(rows)] = rows
        self.filled += len(rows)


class Moments:
    """Mean and variance of columns over batches, in float64 by the pairwise update of Chan et al. (1979)."""

    def __init__(self, neurons: int, device: torch.device) -> None:
        self.n = 0
        self.mean = torch.zeros(neurons, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)
        self.positive = torch.zeros_like(self.mean)
        self.minimum = torch.full((neurons,), torch.inf, device=device)
        self.maximum = -self.minimum

    def add(self, rows: Tensor) -> None:
        """Counts rows (n, F) in."""
        if len(rows) == 0:
            return
        total = self.n + len(rows)
        for some in torch.arange(rows.shape[1]).split(max(1, MOMENT_CHUNK_BYTES // (8 * len(rows)))):
            columns = slice(int(some[0]), int(some[-1]) + 1)
            values = rows[:, columns].double()
            mean = values.mean(0)
            shift = mean - self.mean[columns]
            self.squares[columns] += (values - mean).square_().sum(0) + shift.square() * (self.n * len(rows) / total)
            self.mean[columns] += shift * (len(rows) / total)
        self.n = total
        self.positive += (rows > 0).sum(0)
        self.minimum = torch.minimum(self.minimum, rows.amin(0))
        self.maximum = torch.maximum(self.maximum, rows.amax(0))

    def result(self) -> NeuronMoments:
        """Of all rows so far."""
        return NeuronMoments(
            self.n, self.mean, self.squares / self.n, self.minimum, self.maximum, self.positive / self.n
        )
