"""Whether blocks run as weights alone give what the model's own modules give, on one window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers.continuation import clean_window
from rtdyn.analyses.earlier_layers.exact import moves_of
from rtdyn.analyses.earlier_layers.first_order import first_order
from rtdyn.analyses.earlier_layers.plain_continuation import agrees
from rtdyn.analyses.earlier_layers.plain_first_order import plain_first_order
from rtdyn.analyses.earlier_layers.sums import Window
from rtdyn.capture.earlier_layers import EarlierLayers
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.plain_block import PlainBlock, plain_blocks

CHECKED_TARGETS = 8
"""Targets of the longest window whose first orders the modules give too: the last, and others spread before it."""
AGREES = 1e-4
"""What Δ¹ and its slope may differ by at a position, in units of its largest or of the mean position's, the larger.

Where a loss is small, float32 knows its gradient less closely."""


def trusted_blocks(earlier: EarlierLayers, windows: Sequence[Window], memory_bytes: int) -> Sequence[PlainBlock]:
    """Every block of the model, where reruns and first orders of the longest window are those of its modules.

    Else none. memory_bytes: as `first_order` has it.
    """
    parts, blocks = earlier.anatomy, plain_blocks(earlier.anatomy)
    if not blocks:
        return ()
    # it turns its heads the most
    longest = max(windows, key=lambda window: int(window.query.max()))
    stream, query, target = longest.inputs(earlier.stream)
    means = {layer: captured.moments.mean for layer, captured in earlier.layers.items()}
    with torch.no_grad():
        clean = clean_window(parts, earlier.first, list(means), stream, query, target)
        for layer, mean in means.items():
            moves = moves_of(parts.mlp_outputs[layer], clean.layers[layer], mean, torch.arange(len(mean)), query)
            if not agrees(parts, blocks, layer, moves, query):
                return ()
    some = query.argsort()[torch.linspace(0, len(query) - 1, min(CHECKED_TARGETS, len(query))).round().long()]
    right = first_orders_agree(parts, blocks, earlier.first, means, stream, query[some], target[some], memory_bytes)
    return blocks if right else ()


def first_orders_agree(
    parts: Anatomy,
    blocks: Sequence[PlainBlock],
    first: int,
    means: Mapping[int, Tensor],
    stream: Tensor,
    query: Tensor,
    target: Tensor,
    memory_bytes: int,
) -> bool:
    """Whether Δ¹ and its slope do, on the stream (T, d); arguments as `plain_first_order` has them."""
    _, theirs = first_order(parts, first, means, stream, query, target, memory_bytes)
    _, ours = plain_first_order(parts, blocks, first, means, stream, query, target, memory_bytes)
    pairs = [(getattr(ours[k], name), getattr(theirs[k], name)) for k in means for name in ("delta", "slope")]
    differ, size = (
        torch.stack(v) for v in zip(*(((a - b).abs().amax(1), b.abs().amax(1)) for a, b in pairs), strict=True)
    )
    return bool((differ <= AGREES * size.maximum(size.mean(1, keepdim=True))).all())
