"""One window through blocks as weights alone, with what a step back needs of each.

All targets of a window share what its forward pass gives: the weights of attention, the scales of norms, the slopes of
activations. So a step back is one product for many targets. The last block gives its output at the measured positions
alone. There a loss reaches earlier positions by their keys and values, and its own position by all paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers.continuation import CleanWindow, LayerState, losses
from rtdyn.analyses.kernels.rotation import rotate
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.fast_products import fast_linear
from rtdyn.model.plain_block import BlockNorm, Linear, PlainBlock, Rotation, rotation
from rtdyn.model.run_block import additive_mask


@dataclass(frozen=True)
class PassedWindow:
    """The blocks that one window has passed."""

    before: dict[int, Passed]
    """By layer, ascending, those before the last, at all positions up to the last measured one."""
    last: Passed
    """At the measured positions."""


def pass_window(
    parts: Anatomy, blocks: Sequence[PlainBlock], first: int, stream: Tensor, query: Tensor
) -> PassedWindow:
    """Of the stream (T, d) that enters block `first`; query: int64 (n,), the measured positions."""
    *before, (_, last) = _through(parts, blocks, first, stream, query)
    return PassedWindow(dict(before), last)


def _through(
    parts: Anatomy, blocks: Sequence[PlainBlock], first: int, stream: Tensor, query: Tensor
) -> Iterator[tuple[int, Passed]]:
    """Each block from `first` on, in turn: none is kept here."""
    entering = stream[: int(query.max()) + 1]  # what follows changes nothing before it
    turn, everywhere = rotation(parts, entering), torch.arange(len(entering))
    for layer, block in enumerate(blocks[first:], first):
        passed = _passed(block, entering, query if layer == len(blocks) - 1 else everywhere, turn)
        entering = passed.leaves
        yield layer, passed
        del passed


@torch.no_grad()
def plain_clean_window(
    parts: Anatomy,
    blocks: Sequence[PlainBlock],
    first: int,
    layers: Sequence[int],
    stream: Tensor,
    query: Tensor,
    target: Tensor,
) -> CleanWindow:
    """What `clean_window` gives of the stream (T, d), without MLPs' outputs; it may run in any thread.

    Its layers' states end with the last measured position.
    """
    states, hidden = {}, stream
    for layer, passed in _through(parts, blocks, first, stream, query):
        hidden = passed.leaves
        if layer in layers:
            states[layer] = LayerState(hidden, None, passed.activations)
    return CleanWindow(states, hidden, losses(parts, hidden[None], target)[0])


def window_bytes(parts: Anatomy, blocks: Sequence[PlainBlock], first: int, length: int) -> int:
    """What is kept of a window of so many positions while its targets go back, from block `first` on.

    Each block keeps four numbers of each width, of each neuron and of each number that heads give. It keeps one of each
    pair of positions in a head. One block's matrices of queries, keys and values are copied beside.
    """
    last, (neurons, width) = blocks[-1], parts.output_rows.shape
    of_position = 4 * (width + last.heads * last.head_size + neurons) + last.heads * length
    return 4 * (len(blocks) - first) * length * of_position + last.copied_bytes


def target_bytes(parts: Anatomy, blocks: Sequence[PlainBlock], length: int) -> int:
    """What a target takes beside, while it goes back through a block.

    That is twelve numbers of each width, four of each neuron, and three of each pair of positions in a head.
    """
    neurons, width = parts.output_rows.shape
    return 4 * length * (12 * width + 4 * neurons + 3 * blocks[-1].heads * length)


@dataclass(frozen=True)
class _Normed:
    """What a norm made of n positions."""

    norm: BlockNorm
    unit: Tensor
    """(n, d): x̂/σ."""
    scale: Tensor
    """(n, 1): 1/σ."""

    @staticmethod
    def of(norm: BlockNorm, x: Tensor) -> _Normed:
        """Of x (n, d)."""
        centred = norm.centre(x)
        scale = (centred.square().mean(-1, keepdim=True) + norm.epsilon).rsqrt()
        return _Normed(norm, centred * scale, scale)

    def value(self) -> Tensor:
        """(n, d)."""
        value = self.unit * self.norm.gain
        return value if self.norm.shift is None else value + self.norm.shift

    def at(self, rows: Tensor | slice) -> _Normed:
        """Of those of the n positions."""
        return _Normed(self.norm, self.unit[rows], self.scale[rows])

    def back(self, gradient: Tensor) -> Tensor:
        """(n, k, d) by x, of k gradients (n, k, d) by the value."""
        unit, given = self.unit[:, None], gradient * self.norm.gain
        along = (given * unit).mean(-1, keepdim=True)
        if self.norm.centred:
            given -= given.mean(-1, keepdim=True)
        return given.sub_(along * unit).mul_(self.scale[:, None])


@dataclass(frozen=True)
class Passed:
    """A block that one window has passed, run at n of its T positions; H heads of size D, F neurons."""

    block: PlainBlock
    leaves: Tensor
    """(n, d): what leaves the block."""
    activations: Tensor
    """(n, F): what the MLP's last projection reads."""
    slopes: tuple[Tensor, ...]
    """(n, F): those of the activations by each of what `mlp_in` gives."""
    mlp: _Normed
    """At the n positions."""
    attention: _Normed
    """At all T."""
    position: Tensor
    """int64 (n,)."""
    turn: Rotation
    """(T, r) each."""
    query: Tensor
    """(H, n, D), turned, over √D."""
    key: Tensor
    """(H, T, D), turned."""
    value: Tensor
    """(H, T, D)."""
    weights: Tensor
    """(H, n, T), those of attention."""
    heads: Tensor
    """(H, n, D): what the heads give."""

    def at(self, rows: Tensor | slice, length: int) -> Passed:
        """At those of the n positions, int64 (k,), none beyond the first `length` of T, to which T shrinks."""
        return replace(
            self,
            leaves=self.leaves[rows],
            activations=self.activations[rows],
            slopes=tuple(slope[rows] for slope in self.slopes),
            mlp=self.mlp.at(rows),
            attention=self.attention.at(slice(length)),
            position=self.position[rows],
            turn=(self.turn[0][:length], self.turn[1][:length]),
            query=self.query[:, rows],
            key=self.key[:, :length],
            value=self.value[:, :length],
            weights=self.weights[:, rows, :length],
            heads=self.heads[:, rows],
        )

    def back(self, gradient: Tensor) -> Tensor:
        """(T, k, d) by what enters the block, of k gradients (T, k, d) by what leaves it at all T positions."""
        of_mlp, of_heads = self._back_to_heads(gradient)
        length, k, count, size = of_heads.shape
        of_heads = of_heads.permute(2, 0, 1, 3).contiguous()  # (H, T, k, D)
        of_score = (of_heads.view(count, -1, size) @ self.value.mT).view(count, length, k, length)
        of_score -= (of_heads * self.heads[:, :, None]).sum(-1, keepdim=True)
        of_score *= self.weights[:, :, None]
        of_value = (self.weights.mT @ of_heads.view(count, length, -1)).view(count, length, k, size)
        of_key = (of_score.view(count, length, -1).mT @ self.query).view(count, k, length, size)
        of_query = (of_score.view(count, -1, length) @ self.key).view(count, length, k, size)
        to_query, _ = self.block.queries_and_others()
        own = self._of_queries(of_query.permute(1, 2, 0, 3), to_query)
        by_others = self._of_others(of_key.permute(2, 1, 0, 3), of_value.permute(1, 2, 0, 3))
        return self.attention.back(by_others.add_(own)).add_(gradient).add_(of_mlp)

    def back_of_each(self, gradient: Tensor) -> Tensor:
        """(T, n, d) by what enters the block, of a gradient (n, d) by what leaves it at each of the n positions."""
        of_mlp, of_heads = self._back_to_heads(gradient[:, None])
        given = of_heads[:, 0].transpose(0, 1)  # (H, n, D)
        of_score = (given @ self.value.mT - (given * self.heads).sum(-1, keepdim=True)) * self.weights
        by_position = (v.permute(2, 1, 0)[..., None] for v in (of_score, self.weights))  # (T, n, H, 1)
        of_key, of_value = (a * b.transpose(0, 1) for a, b in zip(by_position, (self.query, given), strict=True))
        normed = self._of_others(of_key, of_value)
        to_query, _ = self.block.queries_and_others()
        targets = torch.arange(len(gradient))
        of_query = (of_score @ self.key).transpose(0, 1)[:, None]
        normed[self.position, targets] += self._of_queries(of_query, to_query)[:, 0]
        by_stream = self.attention.back(normed)
        by_stream[self.position, targets] += gradient + of_mlp[:, 0]
        return by_stream

    def _back_to_heads(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """By what the MLP reads of the stream (n, k, d), and by what heads give (n, k, H, D), of (n, k, d)."""
        block = self.block
        of_hidden = _back(gradient, block.mlp_out)
        read = (_back(of_hidden * s[:, None], linear) for s, linear in zip(self.slopes, block.mlp_in, strict=True))
        of_mlp = self.mlp.back(reduce(torch.Tensor.add_, read))
        of_heads = _back(gradient if block.parallel else gradient + of_mlp, block.attention_out)
        return of_mlp, of_heads.view(*gradient.shape[:2], block.heads, -1)

    def _of_queries(self, gradient: Tensor, linear: Linear) -> Tensor:
        """(n, k, d) by the normed stream, of (n, k, H, D) by what `query` holds."""
        size = gradient.shape[-1]
        gradient = gradient.contiguous().mul_(size**-0.5)
        _turn_back(gradient, (self.turn[0][self.position], self.turn[1][self.position]))
        return _back(gradient.flatten(2), linear)

    def _of_others(self, of_key: Tensor, of_value: Tensor) -> Tensor:
        """(T, k, d) by the normed stream, of (T, k, H, D) each by `key` and `value`."""
        _, to_others = self.block.queries_and_others()
        length, k, count, size = of_key.shape
        shared = len(to_others.weight) // (2 * size)
        both = of_key.new_empty(length, k, shared, 2, size)
        for place, gradient in enumerate((of_key, of_value)):
            both[..., place, :] = gradient.view(length, k, shared, count // shared, size).sum(3)
        _turn_back(both[..., 0, :], self.turn)
        return _back(both.flatten(2), to_others)


def _passed(block: PlainBlock, stream: Tensor, position: Tensor, turn: Rotation) -> Passed:
    """The block run at some positions (n,) of the stream (T, d) that enters it. turn: that of T positions."""
    to_query, to_others = block.queries_and_others()
    attention = _Normed.of(block.attention_norm, stream)
    normed, at = attention.value(), stream[position]
    query, others = to_query(normed[position]), to_others(normed)
    query = query.view(1, len(at), block.heads, -1)
    key, value = others.view(1, len(stream), -1, 2, query.shape[-1]).unbind(3)
    for turned, by in ((query, (turn[0][position], turn[1][position])), (key, turn)):
        rotate(turned.numpy(), *(v.numpy() for v in by))
    query = query[0].transpose(0, 1) * query.shape[-1] ** -0.5
    key, value = (v[0].transpose(0, 1).repeat_interleave(block.heads // v.shape[2], 0) for v in (key, value))
    mask = additive_mask(torch.arange(len(stream)) <= position[:, None], stream.dtype)[0]
    weights = (query @ key.mT + mask).softmax(-1)
    heads = weights @ value
    left = at + block.attention_out(heads.transpose(0, 1).flatten(1))
    mlp = _Normed.of(block.mlp_norm, at if block.parallel else left)
    activations, slopes = _activations(block, [linear(mlp.value()) for linear in block.mlp_in])
    leaves = left + block.mlp_out(activations)
    return Passed(block, leaves, activations, slopes, mlp, attention, position, turn, query, key, value, weights, heads)


def _activations(block: PlainBlock, read: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(n, F) of what `mlp_in` gives, (n, F) each, and their slopes by each."""
    first, *gated = read
    with torch.enable_grad():
        first = first.requires_grad_()
        active = block.activation(first)
        [slope] = torch.autograd.grad(active.sum(), first)
    active = active.detach()
    return (active * gated[0], (slope * gated[0], active)) if gated else (active, (slope,))


def _turn_back(x: Tensor, by: Rotation) -> None:
    """In place, what rotation by these angles (n, r) did to x (n, k, H, D)."""
    cos, sin = by
    rotate(x.transpose(0, 1).numpy(), cos.numpy(), sin.neg().numpy())


def _back(gradient: Tensor, linear: Linear) -> Tensor:
    """(…, reads) of a gradient (…, gives)."""
    return fast_linear(gradient, linear.weight.T)
