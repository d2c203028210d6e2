"""Shards and the index that says which of them holds which tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rtdyn.model.families import OLD_BUFFERS


def contradiction(weight_map: Mapping[str, Any], held: Mapping[str, Collection[str]]) -> str | None:
    """How an index and its shards contradict each other, as they do where shards are of two saves; None if they agree.

    weight_map: by tensor, the shard that the index names. held: by shard, the tensors that it holds. Masks that old
    checkpoints stored may lie anywhere.
    """
    home: dict[str, str] = {}
    for shard, names in held.items():
        for name in sorted(n for n in names if not OLD_BUFFERS.search(n)):
            if name in home:
                return f"{name} lies in {home[name]} and in {shard}"
            home[name] = shard
    for name, shard in weight_map.items():
        if shard in held and not OLD_BUFFERS.search(name) and home.get(name) != shard:
            return f"its index has {name} in {shard}, which does not hold it"
    return None
