"""Mean ablation the slow way, in float64: replace the activation, run norm, unembedding and loss again."""

from __future__ import annotations

import torch
from torch import Tensor

from rtdyn.capture import Capture


def brute_force_deltas(captured: Capture, positions: Tensor, neurons: Tensor) -> Tensor:
    """Δ in nats, float64 (positions, neurons)."""
    parts, readout = captured.anatomy, captured.anatomy.readout
    residual = captured.residual.double()[positions]
    activations = captured.activations.double()[positions]
    targets = torch.from_numpy(captured.positions.target)[positions]

    def losses(r: Tensor) -> Tensor:
        normed = torch.nn.functional.layer_norm(
            r, r.shape[-1:], readout.gain.double(), readout.shift.double(), readout.epsilon
        )
        logits = normed @ readout.unembedding.double().T
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    before = losses(residual)
    columns = []
    for i in neurons.tolist():
        change = captured.moments.mean[i] - activations[:, i]
        columns.append(losses(residual + change[:, None] * parts.output_rows[i].double()) - before)
    return torch.stack(columns, dim=1)
