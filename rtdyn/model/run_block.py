"""A block called outside its model, as its model calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from rtdyn.model.anatomy import Anatomy


def run_block(
    parts: Anatomy,
    block: nn.Module,
    hidden: Tensor,
    ids: Tensor,
    mask: Tensor | None,
    keys: Tensor | None = None,
    **further: Any,
) -> Tensor:
    """What leaves the block (batch, positions, d) where hidden (batch, positions, d) at position ids enters it.

    keys: position ids (keys,) of what is attended to, where a cache gives others. further: other arguments of the
    block.
    """
    of_positions = parts.positions(block, hidden, ids, ids[0] if keys is None else keys)
    output = block(hidden, attention_mask=mask, **of_positions, **further)
    return output[0] if isinstance(output, tuple) else output


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """(1, 1, queries, keys), to be added to the attention's logits: the least number where not allowed."""
    import torch

    nothing = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return nothing.masked_fill(~allowed, torch.finfo(dtype).min)[None, None]


def causal(stream: Tensor) -> tuple[Tensor, Tensor]:
    """Position ids (1, T) and mask (1, 1, T, T) of whole windows (batch, T, d)."""
    import torch

    ids = torch.arange(stream.shape[1], device=stream.device)
    return ids[None], additive_mask(ids <= ids[:, None], stream.dtype)
