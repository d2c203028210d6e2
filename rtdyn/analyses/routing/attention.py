"""The attention that a capture holds, and the layers whose heads reach its neurons: theirs and the one below."""

from __future__ import annotations

from torch import Tensor

from rtdyn.capture.forward_pass import Capture

MEMORY_BYTES = 2**30
"""Memory for arrays beside the model and the capture, where no context says."""


def reaching_layers(captured: Capture) -> tuple[int, ...]:
    """Layers whose heads may be ablated, ascending; the last of them is that of the capture's neurons."""
    own = captured.anatomy.layer
    return tuple(range(own - len(captured.anatomy.blocks) + 1, own + 1))


def captured_attention(captured: Capture) -> Tensor:
    """(N, layers, H, T): each measured position's attention over its window's keys, of `captured.attention_layers`.

    Raises ValueError for a capture that was made without attention.
    """
    if captured.attention is None:
        raise ValueError("the capture was made without attention")
    return captured.attention
