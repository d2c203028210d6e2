"""A block as weights alone: LayerNorms, attention by heads that share nothing, and an MLP without a gate.

What runs a block so skips its modules. It holds for families whose layout says where the parts are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rtdyn.model.anatomy import Anatomy


@dataclass(frozen=True)
class LayerNorm:
    """x becomes γ ∘ (x − mean x)/σ + β, with σ² the mean square of x − mean x, plus ε."""

    gain: Tensor
    """(d,) γ."""
    shift: Tensor
    """(d,) β."""
    epsilon: float


@dataclass(frozen=True)
class Linear:
    """A matrix and what is added."""

    weight: Tensor
    """(gives, reads)."""
    bias: Tensor | None
    """(gives,)."""


@dataclass(frozen=True)
class PlainBlock:
    """One block; width d, H heads of size D, F neurons."""

    attention_norm: LayerNorm
    attention_in: Linear
    """(H·3·D, d): of each head its query, key and value."""
    attention_out: Linear
    """(d, H·D)."""
    mlp_norm: LayerNorm
    mlp_in: Linear
    """(F, d)."""
    activation: nn.Module
    """Of each neuron for itself."""
    mlp_out: Linear
    """(d, F)."""
    heads: int
    parallel: bool
    """Whether the MLP reads what enters the block; else what attention has added to."""


def plain_blocks(parts: Anatomy) -> tuple[PlainBlock, ...]:
    """Every block of the model, first to last.

    Empty where the family's are not known to be such, or where weights are not float32 on a CPU.
    """
    import torch

    from rtdyn.model.layouts import LAYOUTS

    layout = LAYOUTS.get(str(getattr(getattr(parts.backbone, "config", None), "model_type", None)))
    weight = parts.output_rows
    if layout is None or layout.plain is None or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return ()
    plain = layout.plain

    def norm(block: nn.Module, name: str) -> LayerNorm:
        module: Any = block.get_submodule(name)
        return LayerNorm(_of(module, "weight"), _of(module, "bias"), float(module.eps))

    def linear(block: nn.Module, name: str) -> Linear:
        module: Any = block.get_submodule(name)
        return Linear(_of(module, "weight"), None if module.bias is None else _of(module, "bias"))

    return tuple(
        PlainBlock(
            norm(block, plain.attention_norm),
            linear(block, plain.attention_in),
            linear(block, f"{layout.attention}.{layout.heads}"),
            norm(block, plain.mlp_norm),
            linear(block, layout.inputs["in"].module),
            block.get_submodule(plain.activation),
            linear(block, layout.output),
            parts.blocks[-1].heads,
            parts.parallel_residual,
        )
        for block in parts.stack
    )


def _of(module: Any, name: str) -> Tensor:
    return getattr(module, name).detach()
