"""Where each architecture keeps its final layer: the one file that knows its module names.

Everything between the last residual stream r and the logits is declared here, so that the influence of
a neuron can be computed without the model: logits = U·(γ ∘ x / σ + β) + bias, with x = r − mean(r) for
LayerNorm, σ² = ‖x‖²/d + ε. A family enters `FAMILIES` once tests compare it with hooks on transformers'
own model; any other is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtdyn.errors import InputError


@dataclass(frozen=True)
class Readout:
    """The final norm and unembedding: all that follows the last residual stream."""

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
    readout: Readout
    layer: int
    """Index of the final layer."""


def _gpt_neox(model: Any) -> Anatomy:
    layers = model.gpt_neox.layers
    norm = model.gpt_neox.final_layer_norm
    head = model.get_output_embeddings()
    return Anatomy(
        backbone=model.gpt_neox,
        final_norm=norm,
        mlp_output=layers[-1].mlp.dense_4h_to_h,
        output_rows=layers[-1].mlp.dense_4h_to_h.weight.T,
        attentions=tuple(layer.attention for layer in layers[-2:]),
        parallel_residual=bool(model.config.use_parallel_residual),
        readout=Readout(norm.weight, norm.bias, norm.eps, head.weight, head.bias),
        layer=len(layers) - 1,
    )


OLD_BUFFERS = re.compile(r"attention\.(masked_)?bias$|rotary_emb\.inv_freq$")
"""Constants that old checkpoints stored as if they were weights."""

FAMILIES: Mapping[str, Callable[[Any], Anatomy]] = {"gpt_neox": _gpt_neox}


def check_family(model_type: str, where: str) -> None:
    """Raises InputError unless `model_type` is a family whose final layer is known."""
    if model_type not in FAMILIES:
        raise InputError(
            f"{where} is of the family {model_type!r}, which is not supported yet "
            f"(supported: {', '.join(sorted(FAMILIES))})"
        )


def anatomy(model: Any) -> Anatomy:
    """The final layer of a loaded transformers model, its weights detached views of the model's own."""
    with torch.no_grad():
        return FAMILIES[model.config.model_type](model)
