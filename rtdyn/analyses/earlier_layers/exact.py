"""The change of loss where a neuron of a layer before the last is ablated, all that follows run again (METHODS §11)."""

from __future__ import annotations

import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers.continuation import LayerState, continued, written
from rtdyn.model.anatomy import Anatomy

BATCH_TOKENS = 4096
"""Tokens a batch of windows that are run again: more make a processor no faster."""


def exact_deltas(
    parts: Anatomy,
    layer: int,
    state: LayerState,
    loss: Tensor,
    mean: Tensor,
    neurons: Tensor,
    query: Tensor,
    target: Tensor,
    memory_bytes: int,
) -> Tensor:
    """Δ (k, n), float64 nats: what the losses (n,) gain where each of the neurons (k,) is ablated at all T positions.

    state, loss: of the window as it is. mean: float64 (F,), the ā put in place. query, target: int64 (n,). Nothing
    up to the layer is run again. memory_bytes: what the windows of one batch may take.
    """
    mlp = parts.mlp_outputs[layer]
    length = int(query.max()) + 1  # what follows the last measured position changes nothing before it
    stream, output = state.stream[:length], state.output[:length]
    changes = (mean[neurons] - state.activations[:length, neurons].double()).T.to(stream.dtype)
    together = max(1, min(BATCH_TOKENS // length, memory_bytes // _window_bytes(parts, length, len(query))))
    before = loss.double()
    base = stream - written(mlp, output) if mlp.post_norm is not None else stream
    deltas = []
    with torch.no_grad():
        for change, rows in zip(changes.split(together), mlp.rows[neurons].split(together), strict=True):
            moved = change[:, :, None] * rows[:, None]
            streams = base + (moved if mlp.post_norm is None else written(mlp, output + moved))
            deltas.append(continued(parts, layer, streams, query, target).double() - before)
    return torch.cat(deltas) if deltas else before.new_empty(0, len(before))


def _window_bytes(parts: Anatomy, length: int, positions: int) -> int:
    """What a window takes: about sixteen numbers of each width, six of each neuron, three of each pair of positions in
    a head, and three of each logit."""
    neurons, width = parts.output_rows.shape
    block = length * (16 * width + 6 * neurons + 3 * parts.blocks[-1].heads * length)
    return 4 * (block + 3 * positions * len(parts.readout.unembedding))
