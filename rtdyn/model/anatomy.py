"""What a capture hooks and the analyses read of a model, whatever its family: modules and weights by what they are.

Everything between the final MLP's neurons and the logits is declared here. So the influence of a neuron can be computed
without the model: logits = U·(γ ∘ x / σ + β) + bias. x is r − mean(r) for LayerNorm and r for RMSNorm, and
σ² = ‖x‖²/d + ε. Where a norm stands between the MLP and the residual stream, and where the logits are capped, it is
declared too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Readout:
    """The final norm and unembedding: all that follows the last residual stream."""

    centred: bool
    """Whether the norm subtracts the mean: LayerNorm does, RMSNorm does not."""
    gain: Tensor
    """(d,) γ."""
    shift: Tensor
    """(d,) β."""
    epsilon: float
    unembedding: Tensor
    """(V, d) rows u_v."""
    bias: Tensor | None
    """(V,) added to the logits after the unembedding."""
    cap: float | None = None
    """c, where a logit l becomes c·tanh(l/c)."""

    def logits(self, normed: Tensor) -> Tensor:
        """(…, V): of streams (…, d) that left the final norm."""
        from torch.nn.functional import linear

        return self.capped(linear(normed, self.unembedding, self.bias))

    def capped(self, logits: Tensor) -> Tensor:
        """The logits (…, V), through the cap where there is one."""
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap


@dataclass(frozen=True)
class PostNorm:
    """An RMSNorm between the final MLP's output o and the residual stream: r gains γ₂ ∘ o / √(‖o‖²/d + ε)."""

    gain: Tensor
    """(d,) γ₂."""
    epsilon: float


@dataclass(frozen=True)
class Block:
    """A transformer block, with what running it again under a changed attention needs."""

    module: nn.Module
    """Called with hidden states (batch, positions, d)."""
    attention: nn.Module
    """Gives the weights of its attention beside its output."""
    attention_output: nn.Module
    """The attention's output projection; its input is the heads' outputs side by side, (…, heads·head size)."""
    heads: int
    """Query heads, where keys and values are shared."""
    head_size: int
    cache_name: str
    """The argument of `module` that takes a cache of keys and values."""


@dataclass(frozen=True)
class MlpOutput:
    """How one block's MLP writes to the residual stream, and what its neurons read."""

    module: nn.Module
    """The output projection, as `Anatomy.mlp_output` is."""
    rows: Tensor
    """(F, d): row i is what neuron i writes per unit of activation."""
    post_norm: PostNorm | None
    """Between the projection's output and the stream."""
    input_rows: Mapping[str, Tensor]
    """By name, (F, d): row i is what neuron i reads from the MLP's input. `in`, or `gate` and `up`."""
    parallel: nn.Module | None = None
    """The MLP after its norm, called with what enters its block; None without a parallel residual."""


@dataclass(frozen=True)
class Anatomy:
    """The modules a capture hooks, and the weights the analyses read."""

    backbone: nn.Module
    """Called with input ids; runs every block and the final norm, not the unembedding."""
    final_norm: nn.Module
    """Its input is the last residual stream."""
    mlp_output: nn.Module
    """The final MLP's output projection. Its input is the neurons' post-activations, (…, F). Of some families it is
    (batch, positions, F), of others the positions of all windows one after the other."""
    output_rows: Tensor
    """(F, d): row i is what neuron i writes to the residual stream per unit of activation."""
    parallel_residual: bool
    """Whether the final MLP cannot see the final attention."""
    post_norm: PostNorm | None
    readout: Readout
    layer: int
    """Index of the final layer."""
    blocks: tuple[Block, ...] = ()
    """The last two blocks, L-2 then L-1; one where the model has no more."""
    positions: Callable[[nn.Module, Tensor, Tensor, Tensor], dict[str, Any]] = lambda block, hidden, ids, keys: {}
    """A block's arguments of positions, as `positions.py` has them, without the backbone."""
    input_rows: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the final MLP, as `MlpOutput` has them."""
    stack: tuple[nn.Module, ...] = ()
    """Every block of the model, first to last."""
    mlp_outputs: tuple[MlpOutput, ...] = ()
    """Of every block, first to last."""
    every_block: tuple[Block, ...] = ()
    """All of them as `blocks` has the last two, first to last."""
    fuses: bool = False
    """Whether transformers runs the family by torch's fused attention too."""
    parallel_mlp: nn.Module | None = None
    """Of the final MLP, as `MlpOutput` has it."""


def with_mlp_of(parts: Anatomy, layer: int) -> Anatomy:
    """The anatomy with a layer's MLP in the final one's place: what it writes, as if the final norm came next.

    `blocks` are the layer's and the one below it, whose heads reach that MLP.
    """
    mlp = parts.mlp_outputs[layer]
    return replace(
        parts,
        mlp_output=mlp.module,
        output_rows=mlp.rows,
        post_norm=mlp.post_norm,
        input_rows=mlp.input_rows,
        layer=layer,
        blocks=parts.every_block[max(layer - 1, 0) : layer + 1],
        parallel_mlp=mlp.parallel,
    )
