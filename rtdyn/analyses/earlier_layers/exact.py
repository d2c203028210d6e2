"""The change of loss where a neuron of a layer before the last is ablated, all that follows run again (METHODS §11)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rtdyn.analyses.earlier_layers.continuation import LayerState, continued, written
from rtdyn.analyses.earlier_layers.drawn_types import DrawnTypes
from rtdyn.model.anatomy import Anatomy

BATCH_TOKENS = 4096
"""Tokens a batch of windows that are run again: more make a processor no faster."""
READ_OUT = 256
"""Neurons whose losses are taken together: types are looked up for all of them at once."""


def exact_deltas(
    parts: Anatomy,
    layer: int,
    state: LayerState,
    types: DrawnTypes,
    mean: Tensor,
    neurons: Tensor,
    query: Tensor,
    memory_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Δ (k, n), float64 nats: what the losses gain where each of k > 0 neurons is ablated at all T positions.

    And what they gain, (n,), where the window is run again as it is; Δ is against that. state, types: of the window as
    it is. mean: float64 (F,), the ā put in place. neurons: int64 (k,). query: int64 (n,). Nothing up to the layer is
    run again. memory_bytes: what the windows of one batch may take.
    """
    mlp = parts.mlp_outputs[layer]
    length = int(query.max()) + 1  # what follows the last measured position changes nothing before it
    stream, output = state.stream[:length], state.output[:length]
    changes = (mean[neurons] - state.activations[:length, neurons].double()).T.to(stream.dtype)
    together = max(1, min(BATCH_TOKENS // length, memory_bytes // _window_bytes(parts, length)))
    read_out = max(1, min(READ_OUT, memory_bytes // (16 * len(query) * stream.shape[1])))
    base = stream - written(mlp, output) if mlp.post_norm is not None else stream
    deltas, again = [], stream.new_zeros(len(query))
    for some, of_some in zip(changes.split(read_out), mlp.rows[neurons].split(read_out), strict=True):
        hidden = []
        # the first row is the window as it is
        changed, rows = pad(some, (0, 0, 1, 0)), pad(of_some, (0, 0, 1, 0))
        for change, row in zip(changed[:, :, None].split(together), rows[:, None].split(together), strict=True):
            if mlp.post_norm is None:
                streams = torch.addcmul(base, change, row)
            else:
                streams = base + written(mlp, torch.addcmul(output, change, row))
            hidden.append(continued(parts, layer, streams, query))
        moved = types.changes(torch.cat(hidden), memory_bytes)
        again = moved[0]
        deltas.append(moved[1:] - again)
    return torch.cat(deltas), again


def _window_bytes(parts: Anatomy, length: int) -> int:
    """What a window takes: about sixteen numbers of each width, six of each neuron, and three of each pair of positions
    in a head."""
    neurons, width = parts.output_rows.shape
    return 4 * length * (16 * width + 6 * neurons + 3 * parts.blocks[-1].heads * length)
