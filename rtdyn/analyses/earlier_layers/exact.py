"""The change of loss where a neuron of a layer before the last is ablated, all that follows run again (METHODS §11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from rtdyn.analyses.earlier_layers.continuation import LayerState, continued, written
from rtdyn.analyses.earlier_layers.drawn_types import DrawnTypes
from rtdyn.analyses.earlier_layers.plain_continuation import Moves, plain_continued
from rtdyn.model.anatomy import Anatomy, MlpOutput
from rtdyn.model.plain_block import PlainBlock

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
    plain: Sequence[PlainBlock] = (),
) -> tuple[Tensor, Tensor]:
    """Δ (k, n), float64 nats: what the losses gain where each of k > 0 neurons is ablated at all T positions.

    And what they gain, (n,), where the window is run again as it is; Δ is against that. state, types: of the window as
    it is. mean: float64 (F,), the ā put in place. neurons: int64 (k,). query: int64 (n,). Nothing up to the layer is
    run again. memory_bytes: what the windows of one batch may take. plain: the model's blocks, where they may be run
    from weights alone.
    """
    mlp = parts.mlp_outputs[layer]
    moved = moves_of(mlp, state, mean, neurons, query)
    length, width = moved.stream.shape
    together = max(1, min(BATCH_TOKENS // length, memory_bytes // _window_bytes(parts, length)))
    read_out = max(1, min(READ_OUT, memory_bytes // (16 * len(query) * width)))
    deltas, again = [], moved.stream.new_zeros(len(query))
    for change, rows in zip(moved.change.split(read_out), moved.rows.split(read_out), strict=True):
        # the first row is the window as it is
        moves = Moves(moved.stream, pad(change, (0, 0, 1, 0)), pad(rows, (0, 0, 1, 0)))
        if plain:
            hidden = plain_continued(parts, plain, layer, moves, query, memory_bytes)
        else:
            assert state.output is not None
            streams = _streams(mlp, state.output[:length], moves, together)
            hidden = torch.cat([continued(parts, layer, of_batch, query) for of_batch in streams])
        lost = types.changes(hidden, memory_bytes)
        again = lost[0]
        deltas.append(lost[1:] - again)
    return torch.cat(deltas), again


def moves_of(mlp: MlpOutput, state: LayerState, mean: Tensor, neurons: Tensor, query: Tensor) -> Moves:
    """What ablated neurons do to the stream, up to the last measured position: what follows changes nothing before it.

    mean (F,), neurons (k,) and query (n,) as `exact_deltas` has them. With a norm behind the MLP, its rows stand for
    what enters that norm.
    """
    length = int(query.max()) + 1
    stream = state.stream[:length]
    change = (mean[neurons] - state.activations[:length, neurons].double()).T.to(stream.dtype)
    return Moves(stream, change, mlp.rows[neurons])


def _streams(mlp: MlpOutput, output: Tensor, moves: Moves, together: int) -> Iterator[Tensor]:
    """The moved streams (·, T, d), so many at a time, where the MLP's projection gives `output` (T, d) unmoved."""
    batches = zip(moves.change.split(together), moves.rows.split(together), strict=True)
    if mlp.post_norm is None:
        yield from (Moves(moves.stream, change, rows).streams() for change, rows in batches)
        return
    base = moves.stream - written(mlp, output)
    yield from (base + written(mlp, Moves(output, change, rows).streams()) for change, rows in batches)


def _window_bytes(parts: Anatomy, length: int) -> int:
    """What a window takes: about sixteen numbers of each width, six of each neuron, and three of each pair of positions
    in a head."""
    neurons, width = parts.output_rows.shape
    return 4 * length * (16 * width + 6 * neurons + 3 * parts.blocks[-1].heads * length)
