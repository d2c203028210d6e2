"""Which families are supported, and the anatomy of a loaded model of one.

A family enters `layouts.py` once tests compare it with hooks on transformers' own model; any other is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from rtdyn.errors import InputError
from rtdyn.model.anatomy import Anatomy, Block, MlpOutput, PostNorm, Readout
from rtdyn.model.layouts import LAYOUTS, Layout
from rtdyn.model.other_families import why_no_closed_form, why_not_dense
from rtdyn.model.settings import check_not_quantised

if TYPE_CHECKING:
    from torch import Tensor

OLD_BUFFERS = re.compile(r"(^|\.)(attn|attention|crossattention)\.(masked_)?bias$|(^|\.)rotary_emb\.inv_freq$")
"""Masks and rotary frequencies that old checkpoints stored as if they were weights; no family has such parameters."""


def _anatomy(layout: Layout, model: Any) -> Anatomy:
    """The anatomy of transformers' own model of a family with this layout."""
    backbone, stack = model.get_submodule(layout.backbone), tuple(model.get_submodule(layout.blocks))
    final_norm = backbone.get_submodule(layout.final_norm)
    parallel = layout.parallel_norm is not None and getattr(model.config, "use_parallel_residual", True)
    outputs = tuple(_mlp_output(layout, block, parallel) for block in stack)
    blocks = tuple(_block(layout, block, model.config.num_attention_heads) for block in stack)
    return Anatomy(
        backbone=backbone,
        final_norm=final_norm,
        mlp_output=outputs[-1].module,
        output_rows=outputs[-1].rows,
        parallel_residual=parallel,
        post_norm=outputs[-1].post_norm,
        readout=_readout(layout, final_norm, model),
        layer=len(stack) - 1,
        blocks=blocks[-2:],
        positions=partial(layout.positions, backbone),
        input_rows=outputs[-1].input_rows,
        stack=stack,
        mlp_outputs=outputs,
        every_block=blocks,
        # the fused kernel knows no cap on the scores
        fuses=bool(getattr(model, "_supports_sdpa", False))
        and getattr(model.config, "attn_logit_softcapping", None) is None,
        parallel_mlp=outputs[-1].parallel,
    )


def _given(layout: Layout, projection: Any) -> Tensor:
    """(gives, reads): the projection's weight."""
    return projection.weight.T if layout.stored_by_input else projection.weight


def _block(layout: Layout, block: Any, heads: int) -> Block:
    attention = block.get_submodule(layout.attention)
    output = attention.get_submodule(layout.heads)
    return Block(block, attention, output, heads, _given(layout, output).shape[1] // heads, layout.cache)


def _mlp_output(layout: Layout, block: Any, parallel: bool) -> MlpOutput:
    from torch.nn import Sequential

    projection, norm = block.get_submodule(layout.output), None
    if layout.post_norm is not None:
        module = block.get_submodule(layout.post_norm)
        norm = PostNorm(layout.norm.gain(module.weight), layout.norm.epsilon_of(module))
    inputs = {
        name: _given(layout, block.get_submodule(place.module)).tensor_split(place.of)[place.part]
        for name, place in layout.inputs.items()
    }
    after_norm = Sequential(block.get_submodule(layout.parallel_norm), block.mlp) if parallel else None
    return MlpOutput(projection, _given(layout, projection).T, norm, inputs, after_norm)


def _readout(layout: Layout, module: Any, model: Any) -> Readout:
    """module: the final norm."""
    norm, head = layout.norm, model.get_output_embeddings()
    # a norm may be without parameters
    gain, shift = getattr(module, "weight", None), getattr(module, "bias", None)
    ones = head.weight.new_ones(head.weight.shape[1])
    return Readout(
        norm.centred,
        ones if gain is None else norm.gain(gain),
        0.0 * ones if shift is None else shift,
        norm.epsilon_of(module),
        head.weight,
        head.bias,
        model.config.final_logit_softcapping if layout.capped else None,
    )


FAMILIES: Mapping[str, Callable[[Any], Anatomy]] = {
    family: partial(_anatomy, layout) for family, layout in LAYOUTS.items()
}


def check_config(config: Mapping[str, Any], where: str) -> str:
    """The family of the model that a config.json describes. Raises InputError if it or its weights cannot be used."""
    family = str(config.get("model_type"))
    if family not in FAMILIES and "auto_map" in config and why_not_dense(family) is None:
        raise InputError(
            f"{where} is of the family {family!r}, whose code its repository brings; rtdyn runs none of it, "
            f"so use a form that transformers has (supported: {', '.join(sorted(FAMILIES))})"
        )
    check_family(family, where)
    check_not_quantised(config, where)
    if (why := why_no_closed_form(family, config)) is not None:
        raise InputError(f"{where} {why}")
    return family


def may_be_capped(config: Mapping[str, Any]) -> bool:
    """Whether the logits of the model that a config.json describes may be capped, by it or by its family's default."""
    layout = LAYOUTS.get(str(config.get("model_type")))
    return layout is not None and layout.capped and config.get("final_logit_softcapping", True) is not None


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
