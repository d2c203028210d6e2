"""Attention by torch's fused kernel, which is faster than the model's own and gives no weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtdyn.model.anatomy import Anatomy


@contextmanager
def fused_attention(parts: Anatomy) -> Iterator[bool]:
    """While held, the model's blocks attend by the fused kernel: without a mask causally, over half of the pairs.

    Gives False where the family has none, as with ALiBi: then all is as before, and a mask is needed.
    """
    if not parts.fuses:
        yield False
        return
    configs: list[Any] = list({id(block.attention.config): block.attention.config for block in parts.blocks}.values())
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = "sdpa"
    try:
        yield True
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
