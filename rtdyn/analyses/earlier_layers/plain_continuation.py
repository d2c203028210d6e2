"""Windows through the last blocks where an ablation moves the stream along one direction, from weights alone.

Neuron i of a layer moves the stream x_p by c_p·w at position p. x̂ and ŵ are what the next block's norm takes of x and
w: of a LayerNorm they are less their means over the width. It gives γ ∘ (x̂_p + c_p·ŵ)/σ′_p + β, where

    σ′_p² = σ_p² + 2c_p⟨x̂_p, ŵ⟩/d + c_p²‖ŵ‖²/d.

So its product with any matrix W is

    W(γ ∘ x̂_p)/σ′_p + c_p·W(γ ∘ ŵ)/σ′_p + Wβ.

W(γ ∘ x̂_p) is the window's and W(γ ∘ ŵ) the neuron's, so that no pair of them takes a product. Blocks beyond that one
are run as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rtdyn.analyses.earlier_layers.continuation import continued
from rtdyn.analyses.kernels.moved_products import moved_products
from rtdyn.analyses.kernels.rotation import rotate
from rtdyn.analyses.threads import in_whole_threads
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.fast_products import fast_linear
from rtdyn.model.plain_block import BlockNorm, Linear, PlainBlock, Rotation, rotation
from rtdyn.model.run_block import additive_mask

TOKENS = 4096
"""Tokens that are run together: fewer cost more calls."""
NUMBERS = 12
"""Arrays of the stream's width that a window takes while it runs."""
CHECKED = 4
"""Neurons whose windows are run by the model's own modules too, before any is trusted to weights alone."""
AGREES = 1e-5
"""What the two may differ by, in units of a position's largest number."""


@dataclass(frozen=True)
class Moves:
    """What k neurons do to the stream x (T, d) that leaves their layer."""

    stream: Tensor
    """(T, d): x."""
    change: Tensor
    """(k, T): c."""
    rows: Tensor
    """(k, d): w."""

    def some(self, which: slice) -> Moves:
        """Of those neurons."""
        return Moves(self.stream, self.change[which], self.rows[which])

    def at(self, query: Tensor) -> Moves:
        """At those positions (n,)."""
        return Moves(self.stream[query], self.change[:, query], self.rows)

    def streams(self) -> Tensor:
        """(k, T, d)."""
        return torch.addcmul(self.stream, self.change[:, :, None], self.rows[:, None])


def plain_continued(
    parts: Anatomy, blocks: Sequence[PlainBlock], layer: int, moves: Moves, query: Tensor, memory_bytes: int
) -> Tensor:
    """What leaves the last block (k, n, d) at positions `query` (n,), where the moved streams leave the layer's block.

    blocks: every block of the model. memory_bytes: what the windows that are run together may take, in all threads.
    """
    length = len(moves.stream)
    block, *further = blocks[layer + 1 :]
    of_thread = memory_bytes // torch.get_num_threads() - block.copied_bytes
    together = max(1, min(TOKENS // length, of_thread // rerun_bytes(block, length)))
    turn = rotation(parts, moves.stream)
    everywhere = _Attention(block.heads, turn, turn, None)
    mask = additive_mask(torch.arange(length) <= query[:, None], moves.stream.dtype)
    measured = _Attention(block.heads, (turn[0][query], turn[1][query]), turn, mask)
    last = blocks[-1]
    entrance = _Entrance.of(block, moves, None if further else query)

    @torch.inference_mode()
    def run(start: int) -> Tensor:
        some = slice(start, start + together)
        enters = entrance.some(some)
        if not further:
            return _added(last, moves.at(query).some(some).streams(), enters.heads(measured), enters.hidden())
        streams = _added(block, moves.some(some).streams(), enters.heads(everywhere), enters.hidden())
        for between in further[:-1]:
            read = _read(streams, between.attention_norm, *between.queries_and_others())
            streams = _added(between, streams, everywhere.heads(*read), ())
        at = streams[:, query]
        entering = zip((at, streams), last.queries_and_others(), strict=True)
        read = [_read(v, last.attention_norm, linear)[0] for v, linear in entering]
        return _added(last, at, measured.heads(*read), ())

    return torch.cat(in_whole_threads(run, range(0, len(moves.rows), together)))


def rerun_bytes(block: PlainBlock, length: int) -> int:
    """What one window of so many positions takes while it runs, beside the block's copies."""
    width, neurons = len(block.mlp_out.weight), sum(len(linear.weight) for linear in block.mlp_in)
    return 4 * length * (NUMBERS * width + 2 * neurons)


def agrees(parts: Anatomy, blocks: Sequence[PlainBlock], layer: int, moves: Moves, query: Tensor) -> bool:
    """Whether weights alone give what the modules give at query (n,), for the neurons that move the stream most."""
    size = moves.change.norm(dim=1) * moves.rows.norm(dim=1)
    most = size.argsort(descending=True)[:CHECKED]
    some = Moves(moves.stream, moves.change[most], moves.rows[most])
    theirs = continued(parts, layer, some.streams(), query)
    ours = plain_continued(parts, blocks, layer, some, query, 0)
    # position by position: at some, few numbers of a stream may be thousands of times as large as all others
    differ, size = (v.abs().amax((0, 2)) for v in (ours - theirs, theirs))
    return bool((differ <= AGREES * size).all())


def _scale(moves: Moves, norm: BlockNorm) -> Tensor:
    """float64 (k, T): 1/σ′."""
    stream, rows = (norm.centre(v).double() for v in (moves.stream, moves.rows))
    change = moves.change.double()
    square = stream.square().sum(1) + change * (2 * rows @ stream.T + change * rows.square().sum(1, keepdim=True))
    return (square / rows.shape[1] + norm.epsilon).rsqrt()


@dataclass(frozen=True)
class _Moved:
    """Wn + b of k windows, with n what a norm gives where its input moves: scale·before + step·along + bias."""

    scale: Tensor
    """(k, T): 1/σ′."""
    step: Tensor
    """(k, T): c/σ′."""
    before: Tensor
    """(T, m): of the window alone."""
    along: Tensor
    """(k, m): of each neuron alone."""
    bias: Tensor
    """(m,)."""

    @staticmethod
    def of(moves: Moves, norm: BlockNorm, linear: Linear, scale: Tensor) -> _Moved:
        before, along = (fast_linear(norm.centre(v) * norm.gain, linear.weight) for v in (moves.stream, moves.rows))
        shift = torch.zeros_like(norm.gain) if norm.shift is None else norm.shift
        bias = linear(shift[None])[0]
        return _Moved(scale.float(), (moves.change * scale).float(), before, along, bias)

    def some(self, which: slice) -> _Moved:
        return replace(self, scale=self.scale[which], step=self.step[which], along=self.along[which])

    def value(self) -> Tensor:
        """(k, T, m)."""
        out = self.scale.new_empty(*self.scale.shape, len(self.bias))
        moved_products(*(v.numpy() for v in (self.scale, self.step, self.before, self.along, self.bias, out)))
        return out


@dataclass(frozen=True)
class _Entrance:
    """What the first block above reads of k moved streams."""

    queries: _Moved
    """m = H·D, at the positions that attend."""
    others: _Moved
    """m = G·2·D, each key and its value, at all positions."""
    mlp: tuple[_Moved, ...]
    """m = F, at the positions that attend; none where the MLP reads what attention has added to."""

    @staticmethod
    def of(block: PlainBlock, moves: Moves, query: Tensor | None) -> _Entrance:
        """query: int64 (n,), the positions that attend; None where all do."""
        of_queries, of_others = block.queries_and_others()
        norm, scale = block.attention_norm, _scale(moves, block.attention_norm)
        others = _Moved.of(moves, norm, of_others, scale)
        if query is not None:
            moves, scale = moves.at(query), scale[:, query]
        queries = _Moved.of(moves, norm, of_queries, scale)
        if not block.parallel:
            return _Entrance(queries, others, ())
        of_mlp = _scale(moves, block.mlp_norm)
        mlp = tuple(_Moved.of(moves, block.mlp_norm, linear, of_mlp) for linear in block.mlp_in)
        return _Entrance(queries, others, mlp)

    def some(self, which: slice) -> _Entrance:
        mlp = tuple(moved.some(which) for moved in self.mlp)
        return _Entrance(self.queries.some(which), self.others.some(which), mlp)

    def heads(self, attention: _Attention) -> Tensor:
        """(k, n, H·D): what the heads give."""
        return attention.heads(self.queries.value(), self.others.value())

    def hidden(self) -> Sequence[Tensor]:
        """(k, n, F) each: what the MLP's neurons read; none where that is not known."""
        return [moved.value() for moved in self.mlp]


@dataclass(frozen=True)
class _Attention:
    """Which n positions attend to which T."""

    count: int
    """H, heads that ask."""
    turn_queries: Rotation
    """(n, r)."""
    turn_keys: Rotation
    """(T, r)."""
    mask: Tensor | None
    """(1, 1, n, T), added to the scores; None where each of T positions looks back."""

    def heads(self, queries: Tensor, others: Tensor) -> Tensor:
        """(k, n, H·D): of queries (k, n, H·D), and keys and values (k, T, G·2·D). Both turn in place."""
        query = queries.view(*queries.shape[:2], self.count, -1)
        key, value = others.view(*others.shape[:2], -1, 2, query.shape[-1]).unbind(3)
        for turned, by in ((query, self.turn_queries), (key, self.turn_keys)):
            rotate(turned.numpy(), *(v.numpy() for v in by))
        query, key, value = (v.transpose(1, 2) for v in (query, key, value))
        if (sharing := self.count // key.shape[1]) > 1:
            key, value = (v.repeat_interleave(sharing, 1) for v in (key, value))
        given = scaled_dot_product_attention(query, key, value, attn_mask=self.mask, is_causal=self.mask is None)
        return given.transpose(1, 2).flatten(2)


def _added(block: PlainBlock, streams: Tensor, heads: Tensor, hidden: Sequence[Tensor]) -> Tensor:
    """Streams (k, n, d) with what the block adds, by what its heads give (k, n, H·D).

    hidden: (k, n, F) each, what the MLP's neurons read, where it is known.
    """
    left = block.attention_out(heads).add_(streams)
    read = hidden or _read(streams if block.parallel else left, block.mlp_norm, *block.mlp_in)
    return left.add_(block.mlp_out(block.neurons(read)))


def _read(streams: Tensor, norm: BlockNorm, *linears: Linear) -> list[Tensor]:
    """(…, m) of each: of streams (…, d)."""
    normed = norm(streams)
    return [linear(normed) for linear in linears]
