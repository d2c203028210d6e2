"""Mean ablation the slow way, in float64: replace the activation, run norm, unembedding and loss again."""

from __future__ import annotations

import torch
from torch import Tensor

from rtdyn.capture.forward_pass import Capture


def brute_force_deltas(captured: Capture, positions: Tensor | None = None, neurons: Tensor | None = None) -> Tensor:
    """Δ in nats, float64 (positions, neurons); all of them where none are named. LayerNorm readouts only."""
    parts, readout = captured.anatomy, captured.anatomy.readout
    positions = torch.arange(len(captured.residual)) if positions is None else positions
    neurons = torch.arange(len(parts.output_rows)) if neurons is None else neurons
    residual = captured.residual.double()[positions]
    activations = captured.activations.double()[positions]
    targets = torch.from_numpy(captured.positions.target)[positions]
    bias = 0.0 if readout.bias is None else readout.bias.double()

    def losses(r: Tensor) -> Tensor:
        normed = torch.nn.functional.layer_norm(
            r, r.shape[-1:], readout.gain.double(), readout.shift.double(), readout.epsilon
        )
        return torch.nn.functional.cross_entropy(
            normed @ readout.unembedding.double().T + bias, targets, reduction="none"
        )

    before = losses(residual)
    columns = []
    for i in neurons.tolist():
        change = captured.moments.mean[i] - activations[:, i]
        columns.append(losses(residual + change[:, None] * parts.output_rows[i].double()) - before)
    return torch.stack(columns, dim=1)
