"""Where each architecture keeps its final layer: the one file that knows its module names.

Everything between the final MLP's neurons and the logits is declared here, so that the influence of a neuron
can be computed without the model: logits = U·(γ ∘ x / σ + β) + bias, with x = r − mean(r) for LayerNorm and x = r
for RMSNorm, σ² = ‖x‖²/d + ε. Where a norm stands between the MLP and the residual stream, it is declared too.
A family enters `FAMILIES` once tests compare it with hooks on transformers' own model; any other is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rtdyn.errors import InputError
from rtdyn.model.other_families import why_not_dense
from rtdyn.model.settings import check_not_quantised

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
    attention_output: nn.Module
    """The attention's output projection; its input is the heads' outputs side by side, (…, heads·head size)."""
    heads: int
    """Query heads, where keys and values are shared."""
    head_size: int
    cache_name: str
    """The argument of `module` that takes a cache of keys and values."""


@dataclass(frozen=True)
class MlpOutput:
    """How one block's MLP writes to the residual stream."""

    module: nn.Module
    """The output projection; its input is the neurons' post-activations."""
    rows: Tensor
    """(F, d): row i is what neuron i writes per unit of activation."""
    post_norm: PostNorm | None
    """Between the projection's output and the stream."""


@dataclass(frozen=True)
class Anatomy:
    """The modules a capture hooks, and the weights the analyses read."""

    backbone: nn.Module
    """Called with input ids; runs every block and the final norm, not the unembedding."""
    final_norm: nn.Module
    """Its input is the last residual stream."""
    mlp_output: nn.Module
    """The final MLP's output projection; its input is the neurons' post-activations."""
    output_rows: Tensor
    """(F, d): row i is what neuron i writes to the residual stream per unit of activation."""
    attentions: tuple[nn.Module, ...]
    """Attention modules of the last two layers, L-2 then L-1."""
    parallel_residual: bool
    """Whether the final MLP cannot see the final attention."""
    post_norm: PostNorm | None
    readout: Readout
    layer: int
    """Index of the final layer."""
    blocks: tuple[Block, ...] = ()
    """The last two blocks, L-2 then L-1; one where the model has no more."""
    rotary: nn.Module | None = None
    """Gives a block's position embeddings from (hidden states, position ids); None where it takes none."""
    input_rows: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, (F, d): row i is what neuron i reads from the final MLP's input. `in`, or `gate` and `up`."""
    stack: tuple[nn.Module, ...] = ()
    """Every block of the model, first to last."""
    mlp_outputs: tuple[MlpOutput, ...] = ()
    """Of every block, first to last."""
    parallel_mlp: nn.Module | None = None
    """The final MLP after its norm, called with what enters the final block; None without a parallel residual."""


def _gpt_neox(model: Any) -> Anatomy:
    from torch.nn import Sequential

    layers, norm, head = model.gpt_neox.layers, model.gpt_neox.final_layer_norm, model.get_output_embeddings()
    output = layers[-1].mlp.dense_4h_to_h
    parallel = bool(model.config.use_parallel_residual)
    return Anatomy(
        backbone=model.gpt_neox,
        final_norm=norm,
        mlp_output=output,
        output_rows=output.weight.T,
        attentions=tuple(layer.attention for layer in layers[-2:]),
        parallel_residual=parallel,
        post_norm=None,
        readout=Readout(True, norm.weight, norm.bias, norm.eps, head.weight, head.bias),
        layer=len(layers) - 1,
        blocks=tuple(
            Block(
                layer,
                layer.attention.dense,
                model.config.num_attention_heads,
                layer.attention.head_size,
                "layer_past",
            )
            for layer in layers[-2:]
        ),
        rotary=model.gpt_neox.rotary_emb,
        input_rows={"in": layers[-1].mlp.dense_h_to_4h.weight},
        stack=tuple(layers),
        mlp_outputs=tuple(
            MlpOutput(layer.mlp.dense_4h_to_h, layer.mlp.dense_4h_to_h.weight.T, None) for layer in layers
        ),
        parallel_mlp=Sequential(layers[-1].post_attention_layernorm, layers[-1].mlp) if parallel else None,
    )


def _gpt2(model: Any) -> Anatomy:
    layers, norm, head = model.transformer.h, model.transformer.ln_f, model.get_output_embeddings()
    output = layers[-1].mlp.c_proj  # a Conv1D, whose weight is (F, d) already
    return Anatomy(
        backbone=model.transformer,
        final_norm=norm,
        mlp_output=output,
        output_rows=output.weight,
        attentions=tuple(layer.attn for layer in layers[-2:]),
        parallel_residual=False,
        post_norm=None,
        readout=Readout(True, norm.weight, norm.bias, norm.eps, head.weight, head.bias),
        layer=len(layers) - 1,
        blocks=tuple(
            Block(layer, layer.attn.c_proj, layer.attn.num_heads, layer.attn.head_dim, "past_key_values")
            for layer in layers[-2:]
        ),
        rotary=None,
        input_rows={"in": layers[-1].mlp.c_fc.weight.T},
        stack=tuple(layers),
        mlp_outputs=tuple(MlpOutput(layer.mlp.c_proj, layer.mlp.c_proj.weight, None) for layer in layers),
    )


def _gated(
    model: Any, readout: Readout, post_norm_of: Callable[[Any], PostNorm | None] = lambda layer: None
) -> Anatomy:
    """Llama's layout: the neuron is the product that enters `down_proj`."""
    layers = model.model.layers
    output = layers[-1].mlp.down_proj
    return Anatomy(
        backbone=model.model,
        final_norm=model.model.norm,
        mlp_output=output,
        output_rows=output.weight.T,
        attentions=tuple(layer.self_attn for layer in layers[-2:]),
        parallel_residual=False,
        post_norm=post_norm_of(layers[-1]),
        readout=readout,
        layer=len(layers) - 1,
        blocks=tuple(
            Block(
                layer,
                layer.self_attn.o_proj,
                model.config.num_attention_heads,
                layer.self_attn.head_dim,
                "past_key_values",
            )
            for layer in layers[-2:]
        ),
        rotary=model.model.rotary_emb,
        input_rows={"gate": layers[-1].mlp.gate_proj.weight, "up": layers[-1].mlp.up_proj.weight},
        stack=tuple(layers),
        mlp_outputs=tuple(
            MlpOutput(layer.mlp.down_proj, layer.mlp.down_proj.weight.T, post_norm_of(layer)) for layer in layers
        ),
    )


def _rms_readout(model: Any) -> Readout:
    norm, head = model.model.norm, model.get_output_embeddings()
    nothing = norm.weight.new_zeros(norm.weight.shape)
    return Readout(False, norm.weight, nothing, norm.variance_epsilon, head.weight, head.bias)


def _llama(model: Any) -> Anatomy:
    return _gated(model, _rms_readout(model))


def _olmo(model: Any) -> Anatomy:
    head = model.get_output_embeddings()
    ones = head.weight.new_ones(head.weight.shape[1])
    # OLMo's LayerNorm has no parameters, and its epsilon stands in transformers' code, not in the config
    return _gated(model, Readout(True, ones, ones.new_zeros(ones.shape), 1e-5, head.weight, head.bias))


def _olmo2(model: Any) -> Anatomy:
    def post_norm(layer: Any) -> PostNorm:
        norm = layer.post_feedforward_layernorm
        return PostNorm(norm.weight, norm.variance_epsilon)

    return _gated(model, _rms_readout(model), post_norm)


OLD_BUFFERS = re.compile(r"(^|\.)(attn|attention|crossattention)\.(masked_)?bias$|(^|\.)rotary_emb\.inv_freq$")
"""Masks and rotary frequencies that old checkpoints stored as if they were weights; no family has such parameters."""

FAMILIES: Mapping[str, Callable[[Any], Anatomy]] = {
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
    "llama": _llama,
    "olmo": _olmo,
    "olmo2": _olmo2,
    # in Llama's layout; biases, norms and rotary choices of theirs are inside the attention
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "smollm3": _llama,
}


@dataclass(frozen=True)
class StoredMatrix:
    """A weight matrix in a checkpoint's files."""

    tensor: str
    transposed: bool
    """Whether it is stored (d, F)."""

    def rows(self, stored: Tensor) -> Tensor:
        """(F, d): a row a neuron."""
        return stored.T if self.transposed else stored


@dataclass(frozen=True)
class FinalMlp:
    """Where the final MLP's weights are in a checkpoint's files."""

    layer: int
    inputs: Mapping[str, StoredMatrix]
    """By the names of `Anatomy.input_rows`."""
    output: StoredMatrix


_GATED = ("model.layers.{}.mlp.", {"gate": ("gate_proj", False), "up": ("up_proj", False)}, ("down_proj", True))
_FINAL_MLPS: Mapping[str, tuple[str, Mapping[str, tuple[str, bool]], tuple[str, bool]]] = {
    "gpt_neox": ("gpt_neox.layers.{}.mlp.", {"in": ("dense_h_to_4h", False)}, ("dense_4h_to_h", True)),
    "gpt2": ("transformer.h.{}.mlp.", {"in": ("c_fc", True)}, ("c_proj", False)),
    "llama": _GATED,
    "olmo": _GATED,
    "olmo2": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "smollm3": _GATED,
}
"""By family: block, inputs and output, each with whether it is stored (d, F)."""


def final_mlp(config: Mapping[str, Any], where: str) -> FinalMlp:
    """The tensors of the final MLP of a model with this config.json. Raises InputError if the config does not say."""
    family = check_config(config, where)
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    if not isinstance(layers, int) or layers < 1:
        raise InputError(f"{where}: config.json gives no usable num_hidden_layers; correct it")
    block, inputs, output = _FINAL_MLPS[family]

    def matrix(name: str, transposed: bool) -> StoredMatrix:
        return StoredMatrix(f"{block.format(layers - 1)}{name}.weight", transposed)

    return FinalMlp(layers - 1, {key: matrix(*place) for key, place in inputs.items()}, matrix(*output))


def base_model_name(family: str) -> str:
    """What the names of a family's parameters begin with, up to the first dot; those of the head do not."""
    return _FINAL_MLPS[family][0].partition(".")[0]


def check_config(config: Mapping[str, Any], where: str) -> str:
    """The family of the model that a config.json describes. Raises InputError if it or its weights cannot be used."""
    family = str(config.get("model_type"))
    if family not in FAMILIES and "auto_map" in config and why_not_dense(family) is None:
        raise InputError(
            f"{where} is of the family {family!r}, whose code its repository brings; rtdyn runs none of it, "
            f"so use a copy in a form that transformers has (supported: {', '.join(sorted(FAMILIES))})"
        )
    check_family(family, where)
    check_not_quantised(config, where)
    return family


def check_family(model_type: str, where: str) -> None:
    """Raises InputError unless `model_type` is a family whose final layer is known."""
    if (why := why_not_dense(model_type)) is not None:
        raise InputError(f"{where} is of the family {model_type!r}, {why}; give a dense model")
    if model_type not in FAMILIES:
        raise InputError(
            f"{where} is of the family {model_type!r}, which is not supported yet "
            f"(supported: {', '.join(sorted(FAMILIES))})"
        )


def check_reach(config: Any, length: int) -> None:
    """Raises InputError if a window of `length` tokens is longer than the attention of some layer reaches.

    config: transformers' own. Heads are ablated under a mask that reaches the whole window.
    """
    reach, layers = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if reach is not None and length > reach and (layers is None or "sliding_attention" in layers):
        raise InputError(
            f"a window is of {length} tokens, and the attention of this model's layers reaches {reach}; "
            f"give --window {reach} or less"
        )


def anatomy(model: Any) -> Anatomy:
    """The final layer of a loaded transformers model, its weights detached views of the model's own."""
    import torch

    with torch.no_grad():
        return FAMILIES[model.config.model_type](model)


def with_mlp_of(parts: Anatomy, layer: int) -> Anatomy:
    """The anatomy with a layer's MLP in the final one's place: what it writes, as if the final norm came next."""
    mlp = parts.mlp_outputs[layer]
    return replace(parts, mlp_output=mlp.module, output_rows=mlp.rows, post_norm=mlp.post_norm, layer=layer)
