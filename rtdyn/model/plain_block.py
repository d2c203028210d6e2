"""A block as weights alone: norms, attention by rotary heads, and an MLP with a gate or without.

What runs a block so skips its modules. It holds for families whose layout says where the parts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtdyn.model.fast_products import fast_linear

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rtdyn.model.anatomy import Anatomy
    from rtdyn.model.layouts import Layout

Rotation = tuple["Tensor", "Tensor"]
"""Cosines and sines of rotary positions, (positions, r) each."""


@dataclass(frozen=True)
class BlockNorm:
    """x becomes γ ∘ x̂/σ + β, with σ² the mean square of x̂, plus ε."""

    gain: Tensor
    """(d,) γ."""
    shift: Tensor | None
    """(d,) β."""
    epsilon: float
    centred: bool
    """Whether x̂ is x less its mean, as in a LayerNorm; else it is x."""

    def centre(self, x: Tensor) -> Tensor:
        """x̂ (…, d) of x (…, d)."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def __call__(self, x: Tensor) -> Tensor:
        """(…, d) of x (…, d)."""
        from torch.nn.functional import layer_norm, rms_norm

        if self.centred:
            return layer_norm(x, x.shape[-1:], self.gain, self.shift, self.epsilon)
        return rms_norm(x, x.shape[-1:], self.gain, self.epsilon)


@dataclass(frozen=True)
class Linear:
    """A matrix and what is added."""

    weight: Tensor
    """(gives, reads)."""
    bias: Tensor | None
    """(gives,)."""

    def __call__(self, rows: Tensor) -> Tensor:
        """(…, gives) of rows (…, reads), without a gradient."""
        return fast_linear(rows, self.weight, self.bias)


@dataclass(frozen=True)
class PlainBlock:
    """One block; width d, H heads of size D that share G keys and values, F neurons."""

    attention_norm: BlockNorm
    attention_in: tuple[Linear, ...]
    """(H·3·D, d): each head's query, key and value; or three, for queries (H·D, d), keys and values (G·D, d)."""
    attention_out: Linear
    """(d, H·D)."""
    mlp_norm: BlockNorm
    mlp_in: tuple[Linear, ...]
    """(F, d) each: of an MLP without a gate what the activation is given; else the gate, and what it multiplies."""
    activation: nn.Module
    """Of each neuron for itself."""
    mlp_out: Linear
    """(d, F)."""
    heads: int
    head_size: int
    """D."""
    parallel: bool
    """Whether the MLP reads what enters the block; else what attention has added to."""

    @property
    def copied_bytes(self) -> int:
        """What a call of `queries_and_others` takes."""
        return sum(4 * linear.weight.numel() for linear in self.attention_in)

    def queries_and_others(self) -> tuple[Linear, Linear]:
        """What gives queries (H·D, d), and each key and its value (G·2·D, d): copies, made when they are needed."""
        if len(self.attention_in) == 1:
            query, key, value = (_part(self.attention_in[0], self.heads, part) for part in range(3))
        else:
            query, key, value = self.attention_in
        return query, _side_by_side(key, value, self.head_size)

    def neurons(self, read: Sequence[Tensor]) -> Tensor:
        """(…, F): activations, of what `mlp_in` gives, (…, F) each."""
        first, *gated = read
        active: Tensor = self.activation(first)
        return active.mul_(gated[0]) if gated else active


def plain_blocks(parts: Anatomy) -> tuple[PlainBlock, ...]:
    """Every block of the model, first to last.

    Empty where they are not known to be such, or where weights are not float32 on a CPU.
    """
    import torch

    weight = parts.output_rows
    layout = _plain_layout(parts)
    if layout is None or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return ()
    return tuple(_plain_block(parts, layout, block) for block in parts.stack)


def is_plain(parts: Anatomy) -> bool:
    """Whether `PlainBlock` describes the model's blocks."""
    return _plain_layout(parts) is not None


def rotation(parts: Anatomy, stream: Tensor) -> Rotation:
    """Of every position of a window whose stream is (T, d)."""
    import torch

    ids = torch.arange(len(stream))
    cos, sin = parts.positions(parts.stack[-1], stream[None], ids[None], ids)["position_embeddings"]
    return cos[0], sin[0]


def _plain_layout(parts: Anatomy) -> Layout | None:
    """The family's, where it says so and the attention has no norms or other weights of its own."""
    from rtdyn.model.layouts import LAYOUTS

    layout = LAYOUTS.get(str(getattr(getattr(parts.backbone, "config", None), "model_type", None)))
    if layout is None or layout.plain is None:
        return None
    known = {*layout.plain.attention_in, f"{layout.attention}.{layout.heads}"}
    inside = {
        name.rpartition(".")[0]
        for block in parts.stack
        for name, _ in block.named_parameters()
        if name.startswith(f"{layout.attention}.")
    }
    return layout if inside == known else None


def _plain_block(parts: Anatomy, layout: Layout, block: nn.Module) -> PlainBlock:
    plain = layout.plain
    assert plain is not None

    def norm(name: str) -> BlockNorm:
        module, kind = block.get_submodule(name), layout.norm
        shift = _of(module, "bias") if kind.centred else None
        return BlockNorm(kind.gain(_of(module, "weight")), shift, kind.epsilon_of(module), kind.centred)

    def linear(name: str) -> Linear:
        module: Any = block.get_submodule(name)
        return Linear(_of(module, "weight"), None if module.bias is None else _of(module, "bias"))

    last = parts.blocks[-1]
    return PlainBlock(
        norm(plain.attention_norm),
        tuple(linear(name) for name in plain.attention_in),
        linear(f"{layout.attention}.{layout.heads}"),
        norm(plain.mlp_norm),
        tuple(linear(place.module) for place in layout.inputs.values()),
        block.get_submodule(plain.activation),
        linear(layout.output),
        last.heads,
        last.head_size,
        parts.parallel_residual,
    )


def _part(linear: Linear, heads: int, part: int) -> Linear:
    """One of the three parts of each head, one head after the other."""
    weight, bias = linear.weight, linear.bias
    of_heads = weight.view(heads, 3, -1, weight.shape[1])[:, part].flatten(0, 1)
    return Linear(of_heads, None if bias is None else bias.view(heads, 3, -1)[:, part].flatten())


def _side_by_side(key: Linear, value: Linear, size: int) -> Linear:
    """Each key's `size` rows, then its value's."""
    import torch

    def joined(of_key: Tensor, of_value: Tensor) -> Tensor:
        both = torch.stack([v.view(-1, size, *v.shape[1:]) for v in (of_key, of_value)], 1)
        return both.flatten(0, 2)

    assert (key.bias is None) == (value.bias is None)
    bias = None if key.bias is None or value.bias is None else joined(key.bias, value.bias)
    return Linear(joined(key.weight, value.weight), bias)


def _of(module: Any, name: str) -> Tensor:
    return getattr(module, name).detach()
