"""Captures of earlier layers from which the heads that reach their neurons can be ablated (METHODS §7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from rtdyn.capture.earlier_layers import EarlierLayers
from rtdyn.capture.forward_pass import Capture
from rtdyn.model.fast_products import fast_products
from rtdyn.model.run_block import causal, run_block

BATCH_TOKENS = 4096
"""Tokens a batch of windows that go through a block."""


def captures_with_streams(earlier: EarlierLayers) -> Iterator[tuple[int, Capture]]:
    """Each layer, ascending, and its capture with the stream that enters the first of its blocks.

    All streams are one array (windows, T, d), which the next turn changes. Raises ValueError for what was captured
    without attention.
    """
    if earlier.below is None:
        raise ValueError("the layers were captured without attention")
    stream, entered = earlier.below.clone(), max(earlier.first - 1, 0)
    for layer, captured in earlier.layers.items():
        first = max(layer - 1, 0)
        for block in range(entered, first):
            _advance(earlier, block, stream)
        entered = first
        yield layer, replace(captured, stream=stream)


@torch.inference_mode()
def _advance(earlier: EarlierLayers, block: int, stream: torch.Tensor) -> None:
    """Puts what leaves the block in the place of the stream (windows, T, d) that enters it."""
    parts = earlier.anatomy
    ids, mask = causal(stream)
    with fast_products():
        for some in stream.split(max(1, BATCH_TOKENS // stream.shape[1])):
            some.copy_(run_block(parts, parts.stack[block], some, ids, mask))
