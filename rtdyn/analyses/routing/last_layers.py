"""The attention that a capture holds: that of the model's last layers, two or the only one."""

from __future__ import annotations

from torch import Tensor

from rtdyn.capture.forward_pass import Capture

MEMORY_BYTES = 2**30
"""Memory for arrays beside the model and the capture, where no context says."""


def attention_layers(captured: Capture) -> tuple[int, ...]:
    """Layers whose attention is measured, ascending; the last of them is the model's last."""
    last = captured.anatomy.layer
    return tuple(range(last - len(captured.anatomy.attentions) + 1, last + 1))


def captured_attention(captured: Capture) -> Tensor:
    """(N, layers, H, T): each measured position's attention over its window's keys.

    Raises ValueError for a capture that was made without attention.
    """
    if captured.attention is None:
        raise ValueError("the capture was made without attention")
    return captured.attention
