"""Mean loss of the unchanged model, by token class (METHODS §2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.statistics import Estimate, clustered_se, estimate
from rtdyn.capture.forward_pass import Capture

ALL = "all"
"""What stands for all kept positions where a token class is named."""


@dataclass(frozen=True)
class MeanLoss:
    """Mean loss in nats; windows are the clusters of its interval."""

    mean: Estimate
    n: int
    """Positions."""


def mean_losses(captured: Capture, length: int) -> dict[str, MeanLoss]:
    """Over all kept positions, named ALL, and over each class's measured ones. length: positions of a window."""
    losses = {ALL: _mean_loss(captured.loss, captured.kept_flat // length)}
    measured, positions = captured.measured_loss, captured.positions
    for c in positions.classes:
        members = positions.members(c.name)
        losses[c.name] = _mean_loss(measured[torch.from_numpy(members)], positions.window[members])
    return losses


def _mean_loss(loss: Tensor, windows: np.ndarray) -> MeanLoss:
    """loss (n,), of positions in these windows (n,)."""
    _, index, counts = np.unique(windows, return_inverse=True, return_counts=True)
    sums = torch.from_numpy(np.bincount(index, loss.double().numpy()))[:, None]
    se = float(clustered_se(sums, torch.from_numpy(counts))[0])
    return MeanLoss(estimate(float(loss.double().mean()), se), len(loss))
