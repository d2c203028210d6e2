"""A layer and the one below run again, on the model's own code, with the outputs of heads replaced (METHODS §7).

A head's output becomes zero, or its value at key 0 (`bos`: the pattern wholly there).
at="query" is a forward pass that changes the output at one measured position alone, for each such position a pass of
its own. No earlier position can notice. So in the next layer the position's own query, key and value are new. All
keys and values before it are those of the clean pass. at="all" changes the output everywhere. Either way only two
blocks run again. The later of them is called final here, as it is of the model where the last layer is measured. In
it, and wherever its MLP cannot see its own layer's attention, the two are the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtdyn.model.anatomy import Anatomy, Block
from rtdyn.model.run_block import additive_mask, causal, run_block


class _Cache:
    """Stands where a block expects its cache: puts earlier keys and values before the new ones, and keeps the new."""

    def __init__(self, earlier: _Cache | None = None) -> None:
        self.earlier = earlier
        self.keys, self.values = torch.empty(0), torch.empty(0)

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values
        if self.earlier is None:
            return keys, values
        return torch.cat([self.earlier.keys, keys], dim=2), torch.cat([self.earlier.values, values], dim=2)


@dataclass(frozen=True)
class _Pass:
    """One run of a block over (batch, positions)."""

    stream: Tensor
    """(batch, positions, d): what leaves it."""
    heads: Tensor
    """(batch, positions, H, head size): the heads' outputs, before any replacement."""
    activations: Tensor | None
    """(batch, positions, F), for the final block."""


@dataclass(frozen=True)
class CleanWindow:
    """One window as it is: what enters each of the blocks, and the heads' outputs there."""

    streams: tuple[Tensor, ...]
    """(T, d) each."""
    heads: tuple[Tensor, ...]
    """(T, H, head size) each."""
    cache: _Cache
    """Keys and values of the final block."""


@dataclass(frozen=True)
class CleanQueries:
    """The same at measured positions of a window alone, which is all that a parallel residual asks for."""

    entering: Tensor
    """(positions, d): what enters the final block."""
    heads: Tensor
    """(positions, H, head size): the heads' outputs in the block before."""
    first: Tensor
    """(H, head size): at key 0."""


def _run(
    parts: Anatomy,
    block: Block,
    hidden: Tensor,
    ids: Tensor,
    mask: Tensor | None = None,
    heads: Tensor | None = None,
    cache: _Cache | None = None,
    keys: Tensor | None = None,
) -> _Pass:
    """Runs the block over hidden (batch, positions, d) at position ids; `heads` replaces its heads' outputs.

    keys: as `run_block` has them.
    """
    seen: dict[str, Tensor] = {}

    def on_heads(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        seen["heads"] = inputs[0]
        return None if heads is None else (heads.flatten(-2).contiguous(),)

    def on_activations(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["activations"] = inputs[0].view(*hidden.shape[:2], -1)

    handles = [
        block.attention_output.register_forward_pre_hook(on_heads),
        parts.mlp_output.register_forward_pre_hook(on_activations),
    ]
    further = {} if cache is None else {block.cache_name: cache}
    try:
        stream = run_block(parts, block.module, hidden, ids, mask, keys, **further)
    finally:
        for handle in handles:
            handle.remove()
    return _Pass(stream, seen["heads"].unflatten(-1, (block.heads, block.head_size)), seen.get("activations"))


def _first_input(module: torch.nn.Module, call: Callable[[], object]) -> Tensor:
    """What the module is given in a call that ends there."""

    def stop(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise _Reached(inputs[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        call()
    except _Reached as reached:
        return reached.value
    finally:
        handle.remove()
    raise AssertionError("the call did not come to the module")


class _Reached(Exception):
    """A call has come to the module that it was made for."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def clean_pass(parts: Anatomy, stream: Tensor) -> CleanWindow:
    """One window's stream (1, T, d) through both blocks."""
    ids, mask = causal(stream)
    streams, all_heads, cache = [], [], _Cache()
    for block in parts.blocks:
        streams.append(stream[0])
        passed = _run(parts, block, stream, ids, mask, cache=cache)
        all_heads.append(passed.heads[0])
        stream = passed.stream
    return CleanWindow(tuple(streams), tuple(all_heads), cache)


def clean_queries(parts: Anatomy, stream: Tensor, query: np.ndarray, heads: Tensor, first: Tensor) -> CleanQueries:
    """What is needed of one window with a parallel residual.

    stream: (T, d), what enters the first of the blocks. query: int64 (positions,). heads: (positions, H·head
    size), the heads' outputs there at these positions; first: (H·head size,) at key 0.
    """
    block, at_query = parts.blocks[0], torch.from_numpy(query).to(stream.device)
    by_head, entering = heads.unflatten(-1, (block.heads, block.head_size)), stream[at_query]
    if len(parts.blocks) > 1:
        # the heads' outputs are given, so that each position may run alone, as a sequence of its own
        entering = _run(parts, block, entering[:, None], at_query[:, None], heads=by_head[:, None]).stream[:, 0]
    return CleanQueries(entering, by_head, first.unflatten(-1, (block.heads, block.head_size)))


def _position_bytes(parts: Anatomy, block: Block, keys: int) -> int:
    """What a position of a run takes: about sixteen numbers of each width, six of each neuron, three of each key."""
    neurons, width = parts.output_rows.shape
    return 4 * (16 * width + 6 * neurons + 3 * block.heads * keys)


def ablated_activations(
    parts: Anatomy,
    clean: CleanWindow | CleanQueries,
    which: int,
    query: np.ndarray,
    to: str,
    at: str,
    memory_bytes: int,
) -> Iterator[tuple[slice, Tensor]]:
    """Activations (positions, 1 + H + 1, F) at slices of the window's positions `query`: as they are, then ablated.

    which: of the blocks, the one whose heads are ablated. query: int64 (positions,). to, at, memory_bytes: as
    `ablate_heads` has them. Where nothing can have an effect, (positions, 1, F).
    """
    block, final = parts.blocks[which], parts.blocks[-1]
    if isinstance(clean, CleanQueries):
        yield from _parallel(parts, clean, which, to, memory_bytes)
        return
    at_query = torch.from_numpy(query).to(clean.streams[0].device)
    length = len(clean.streams[0])
    variants = block.heads + 2
    replacement = _replacement(clean.heads[which][0], to)
    per_position = _position_bytes(parts, block, 2 * length)
    if at == "all" and block is not final:
        ids, mask = causal(clean.streams[which][None])
        at_queries = []
        changed = _variants(clean.heads[which], replacement).transpose(0, 1)
        for some in changed.split(max(1, memory_bytes // (per_position * length))):
            hidden = clean.streams[which].expand(len(some), -1, -1)
            hidden = _run(parts, block, hidden, ids, mask, heads=some).stream
            activations = _run(parts, final, hidden, ids, mask).activations
            assert activations is not None
            at_queries.append(activations[:, at_query])
        yield slice(0, len(query)), torch.cat(at_queries).transpose(0, 1)
        return
    together = max(1, min(length, memory_bytes // per_position) // variants)
    for start in range(0, len(query), together):
        some = at_query[start : start + together]
        ids = some.repeat_interleave(variants)
        changed = _variants(clean.heads[which][some], replacement).flatten(0, 1)
        # the heads' outputs are given, so that each position may run alone, as a sequence of its own
        hidden = clean.streams[which][ids][:, None]
        passed = _run(parts, block, hidden, ids[:, None], heads=changed[:, None])
        if block is not final:
            passed = _continue(parts, final, passed.stream[:, 0], ids, clean.cache)
        assert passed.activations is not None
        yield slice(start, start + len(some)), passed.activations.reshape(len(some), variants, -1)


def _parallel(
    parts: Anatomy, clean: CleanQueries, which: int, to: str, memory_bytes: int
) -> Iterator[tuple[slice, Tensor]]:
    """`ablated_activations` where the final MLP reads what enters the final block, and no block's MLP its attention."""
    assert parts.parallel_mlp is not None
    mlp, block, count = parts.parallel_mlp, parts.blocks[which], len(clean.entering)
    if which == len(parts.blocks) - 1:
        # nothing to measure but |a| itself
        yield slice(0, count), _first_input(parts.mlp_output, partial(mlp, clean.entering[:, None]))
        return
    replacement = _replacement(clean.first, to)
    together = max(1, memory_bytes // _position_bytes(parts, block, 0) // (block.heads + 2))
    for start in range(0, count, together):
        some = slice(start, min(start + together, count))
        # a head moves the stream through its output projection alone
        stream = clean.entering[some, None] + _written(block, replacement - clean.heads[some])
        yield some, _first_input(parts.mlp_output, partial(mlp, stream))


def _written(block: Block, change: Tensor) -> Tensor:
    """(n, 1 + H + 1, d): what changes of heads (n, H, head size) add to the stream: none, each one's, and all."""
    projection = block.attention_output
    assert isinstance(projection, torch.nn.Linear)  # in every family with a parallel residual
    # each head has columns of its own, so that all heads' products take no longer than one of all
    each = torch.einsum("nhk,dhk->nhd", change, projection.weight.unflatten(1, change.shape[1:]))
    return torch.cat([torch.zeros_like(each[:, :1]), each, each.sum(1, keepdim=True)], dim=1)


def _continue(parts: Anatomy, final: Block, stream: Tensor, ids: Tensor, cache: _Cache) -> _Pass:
    """The final block over changed positions (n, d), each seeing the clean keys before it and its own."""
    clean = torch.arange(cache.keys.shape[2], device=ids.device)
    itself = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    mask = additive_mask(torch.cat([clean < ids[:, None], itself], dim=1), stream.dtype)
    return _run(parts, final, stream[None], ids[None], mask, cache=_Cache(cache), keys=torch.cat([clean, ids]))


def _replacement(first: Tensor, to: str) -> Tensor:
    """(H, head size): what stands in for each head's output, `first` (H, head size) being that at key 0."""
    # the first query can see no key but key 0, so that its output is the value there
    return torch.zeros_like(first) if to == "zero" else first


def _variants(heads: Tensor, replacement: Tensor) -> Tensor:
    """(n, 1 + H + 1, H, head size): heads (n, H, head size) as they are, with each one replaced, and with all."""
    count = heads.shape[1]
    each = torch.eye(count, dtype=torch.bool, device=heads.device)
    flags = torch.cat([torch.zeros_like(each[:1]), each, torch.ones_like(each[:1])])
    return torch.where(flags[:, :, None], replacement, heads[:, None])
