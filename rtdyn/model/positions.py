"""What the blocks of a family are passed of positions, as its own model passes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Positions = Callable[[Any, Any, "Tensor", "Tensor", "Tensor"], dict[str, Any]]
"""A block's arguments, from (backbone, block, hidden states (batch, positions, d), position ids (batch or 1,
positions), and position ids of the keys (keys,))."""


def in_the_stream(backbone: Any, block: Any, hidden: Tensor, ids: Tensor, keys: Tensor) -> dict[str, Any]:
    """Nothing: positions were added to the embeddings."""
    return {}


def rotary(backbone: Any, block: Any, hidden: Tensor, ids: Tensor, keys: Tensor) -> dict[str, Any]:
    """The rotation of queries and keys."""
    return {"position_embeddings": backbone.rotary_emb(hidden, position_ids=ids)}


def rotary_by_kind(backbone: Any, block: Any, hidden: Tensor, ids: Tensor, keys: Tensor) -> dict[str, Any]:
    """The rotation of the block's kind of attention: where it slides it is another than where it reaches all."""
    if isinstance(backbone.rotary_emb.rope_type, str):  # OLMo-3 turns all kinds alike in older transformers
        return rotary(backbone, block, hidden, ids, keys)
    kind = backbone.config.layer_types[block.self_attn.layer_idx]
    return {"position_embeddings": backbone.rotary_emb(hidden, ids, kind)}


def by_id(backbone: Any, block: Any, hidden: Tensor, ids: Tensor, keys: Tensor) -> dict[str, Any]:
    """The ids, by which each attention looks up its rotation."""
    return {"position_ids": ids}


def alibi(backbone: Any, block: Any, hidden: Tensor, ids: Tensor, keys: Tensor) -> dict[str, Any]:
    """(batch·heads, 1, keys), added to the attention's logits: a slope of each head times a key's position."""
    # of two positions the second has the slope itself
    slopes = backbone.build_alibi_tensor(ids.new_ones(1, 2), backbone.num_heads, hidden.dtype)[:, 0, 1]
    return {"alibi": (slopes[:, None, None] * keys).repeat(len(hidden), 1, 1)}
