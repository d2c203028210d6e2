"""Mean loss of the unchanged model, by token class (METHODS §2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.statistics import Estimate, mean_estimate
from rtdyn.capture.forward_pass import Capture

ALL = "all"
"""What stands for all kept positions where a token class is named."""


@dataclass(frozen=True)
class MeanLoss:
    """Mean loss in nats."""

    mean: Estimate
    n: int
    """Positions."""


def mean_losses(captured: Capture, length: int, cluster: np.ndarray) -> dict[str, MeanLoss]:
    """Over all kept positions, named ALL, and over each class's measured ones.

    length: positions of a window. cluster: int (windows,), the independent piece of text that each window is of.
    """
    losses = {ALL: _mean_loss(captured.loss, cluster[captured.kept_flat // length])}
    measured, positions = captured.measured_loss, captured.positions
    for c in positions.classes:
        members = positions.members(c.name)
        losses[c.name] = _mean_loss(measured[torch.from_numpy(members)], cluster[positions.window[members]])
    return losses


def _mean_loss(loss: Tensor, cluster: np.ndarray) -> MeanLoss:
    """loss (n,), of positions in these clusters (n,)."""
    _, index, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    sums = torch.from_numpy(np.bincount(index, loss.double().numpy()))
    return MeanLoss(mean_estimate(sums, torch.from_numpy(counts), least=0.0), len(loss))
