"""One window through the model's own last blocks, from a layer's output on to the losses.

What leaves the last block is needed at the measured positions alone. They attend to all positions before them, so there
the block gives keys and values at every position, and all else where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtdyn.model.anatomy import Anatomy, MlpOutput
from rtdyn.model.fused_attention import fused_attention
from rtdyn.model.run_block import additive_mask, causal, run_block


@dataclass(frozen=True)
class LayerState:
    """One window at one layer; T positions, width d, F neurons."""

    stream: Tensor
    """(T, d): the residual stream that leaves the block."""
    output: Tensor | None
    """(T, d): the MLP's output projection, before a norm of its own; None of a window from weights alone."""
    activations: Tensor
    """(T, F)."""


@dataclass(frozen=True)
class CleanWindow:
    """One window with nothing ablated."""

    layers: Mapping[int, LayerState]
    hidden: Tensor
    """(n, d): what leaves the last block at the measured positions."""
    loss: Tensor
    """(n,): there, nats."""


def clean_window(
    parts: Anatomy,
    first: int,
    layers: Sequence[int],
    stream: Tensor,
    query: Tensor,
    target: Tensor,
    probes: Mapping[int, Tensor] | None = None,
) -> CleanWindow:
    """Runs the blocks from `first` on over the stream (T, d) that enters it; layers: some of them, before the last.

    query, target: int64 (n,), the measured positions and the ids of their next tokens. probes: (T, d) by layer, added
    to what its MLP's output projection gives, so that the loss can be differentiated by it.
    """
    states: dict[int, LayerState] = {}
    hidden = stream[None]
    ids, mask = causal(hidden)
    for layer in range(first, len(parts.stack) - 1):
        if layer not in layers:
            hidden = run_block(parts, parts.stack[layer], hidden, ids, mask)
            continue
        with _recorded(parts.mlp_outputs[layer].module, None if probes is None else probes[layer]) as seen:
            hidden = run_block(parts, parts.stack[layer], hidden, ids, mask)
        length = hidden.shape[1]
        output, activations = (seen[name].view(length, -1) for name in ("output", "activations"))
        states[layer] = LayerState(hidden[0].detach(), output, activations)
    last = _last_block(parts, hidden, query)[0]
    return CleanWindow(states, last, losses(parts, last[None], target)[0])


def continued(parts: Anatomy, layer: int, streams: Tensor, query: Tensor) -> Tensor:
    """What leaves the last block (k, n, d) at positions `query` where the streams (k, T, d) leave the layer's block."""
    ids, mask = causal(streams)
    with fused_attention(parts) as fused:
        for block in parts.stack[layer + 1 : -1]:
            streams = run_block(parts, block, streams, ids, None if fused else mask)
        return _last_block(parts, streams, query)


def losses(parts: Anatomy, hidden: Tensor, target: Tensor) -> Tensor:
    """Losses (k, n) in nats from the last hidden states (k, n, d) at the measured positions, before the final norm."""
    shape = hidden.shape[:2]
    every = target.expand(shape).flatten()
    return nn.functional.cross_entropy(logits(parts, hidden).flatten(0, 1), every, reduction="none").view(shape)


def logits(parts: Anatomy, hidden: Tensor) -> Tensor:
    """(…, V): of what leaves the last block (…, d)."""
    return parts.readout.logits(parts.final_norm(hidden))


def written(mlp: MlpOutput, output: Tensor) -> Tensor:
    """What the MLP adds to the residual stream, (…, d), where its projection gives `output` (…, d)."""
    norm = mlp.post_norm
    if norm is None:
        return output
    return norm.gain * output * (output.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt()


def _last_block(parts: Anatomy, streams: Tensor, query: Tensor) -> Tensor:
    """What leaves the last block (k, n, d) at positions `query` where the streams (k, T, d) enter it."""
    block = parts.blocks[-1]
    ids = torch.arange(streams.shape[1], device=streams.device)[None]
    cache: dict[str, Any] = {block.cache_name: _AllKeys()}
    with suppress(_Kept):
        run_block(parts, block.module, streams, ids, None, **cache)
    allowed = ids <= query[:, None]
    queries = additive_mask(allowed, streams.dtype)
    return run_block(parts, block.module, streams[:, query], query[None], queries, ids, **cache)


class _AllKeys:
    """Stands where a block expects its cache: keeps what it is first given, and stops there; later gives that back."""

    kept: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.kept is None:
            self.kept = keys, values
            raise _Kept
        return self.kept


class _Kept(Exception):
    """A block's keys and values are computed."""


@contextmanager
def _recorded(projection: nn.Module, probe: Tensor | None) -> Iterator[dict[str, Tensor]]:
    """Hooks that leave an MLP's activations and output, and add the probe to what it gives."""
    seen: dict[str, Tensor] = {}

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
        seen["activations"], seen["output"] = inputs[0].detach(), output.detach()
        return None if probe is None else output + probe

    handle = projection.register_forward_hook(after)
    try:
        yield seen
    finally:
        handle.remove()
