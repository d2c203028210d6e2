"""The sizes of a model, from its config.json alone: transformers' own model without weights, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rtdyn.blame import blamed_on
from rtdyn.errors import InputError, brief
from rtdyn.model.families import anatomy, check_config
from rtdyn.model.layouts import WITHOUT_LIMIT
from rtdyn.model.plain_block import is_plain
from rtdyn.model.settings import settings_of_model

BYTES_OF = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of a number in a checkpoint's files, by the config.json's dtype."""
_NOT_OF_MODEL = ("model_type", "parameters", "transformers_version")
OLD_MASKS = ("gpt_neox", "gpt2", "gptj")
"""Families whose files of older transformers hold each layer's attention mask too, a byte a pair of positions."""


@dataclass(frozen=True)
class ModelShape:
    """What a model's cost depends on."""

    layers: int
    width: int
    """d, of the residual stream."""
    neurons: int
    """F, of the final MLP."""
    inputs: int
    """Matrices that each neuron reads by: 1, of a gated MLP 2."""
    heads: int
    """Of the last layer."""
    head_size: int
    """Numbers of one of them."""
    logits: int
    """V, rows of the unembedding."""
    context: int | None
    """Positions at most; None where there is no limit."""
    directions: int
    """D, in which ablation moves the logits at a position: 1, or 2 where a norm follows the MLP."""
    capped: bool
    """Whether the logits are capped."""
    parallel_residual: bool
    """Whether a block's MLP reads the stream that its attention reads."""
    plain: bool
    """Whether `PlainBlock` describes its blocks, so that they run from weights alone on a CPU."""
    parameters: int
    matrices: int
    """Numbers in all blocks' weight matrices; each is multiplied and added once for every token."""
    block: int
    """Parameters of the largest block."""
    embedding: int
    """Parameters before the first block."""
    number_bytes: int
    """Of a number in a checkpoint's files."""
    masks: int
    """Bytes of attention masks in such files."""

    @property
    def file_bytes(self) -> int:
        """Bytes of a checkpoint's weights, estimated."""
        return self.number_bytes * self.parameters + self.masks


def model_shape(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape of the model that a config.json describes.

    config: its settings, and `parameters` where they are known. Raises InputError for a family that is not supported,
    settings that make no model, and another number of parameters than is given.
    """
    import torch
    import transformers

    family = check_config(config, where)
    settings = settings_of_model({k: v for k, v in config.items() if k not in _NOT_OF_MODEL})
    auto: Any = transformers.AutoModelForCausalLM
    transformers.utils.logging.set_verbosity_error()

    def refusal(error: Exception) -> InputError:
        return InputError(f"{where}: its settings make no model ({brief(error)}); correct them")

    with blamed_on(where, refusal):
        with torch.device("meta"):
            made = transformers.AutoConfig.for_model(family, **settings)
            model = auto.from_config(made, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False)
        parts = anatomy(model)
    parameters = sum(p.numel() for p in model.parameters())
    published = config.get("parameters", parameters)
    if published != parameters:
        raise InputError(f"{where}: its settings make {parameters:,} parameters, not {published:,}; correct them")
    rows, width = parts.readout.unembedding.shape
    blocks = [sum(p.numel() for p in block.parameters()) for block in parts.stack]
    head = model.get_output_embeddings()
    outside = sum(p.numel() for module in (head, parts.final_norm) for p in module.parameters())
    tied = model.get_input_embeddings().weight is head.weight
    context = None if family in WITHOUT_LIMIT else int(model.config.max_position_embeddings)
    number = BYTES_OF.get(str(config.get("dtype", config.get("torch_dtype"))).removeprefix("torch."), 4)
    masks = len(parts.stack) * context**2 if family in OLD_MASKS and context else 0
    return ModelShape(
        layers=len(parts.stack),
        width=width,
        neurons=len(parts.output_rows),
        inputs=len(parts.input_rows),
        heads=parts.blocks[-1].heads,
        head_size=parts.blocks[-1].head_size,
        logits=rows,
        context=context,
        directions=1 if parts.post_norm is None else 2,
        capped=parts.readout.cap is not None,
        parallel_residual=parts.parallel_residual,
        plain=is_plain(parts),
        parameters=parameters,
        matrices=sum(p.numel() for block in parts.stack for p in block.parameters() if p.dim() > 1),
        block=max(blocks),
        embedding=parameters - sum(blocks) - outside + (parts.readout.unembedding.numel() if tied else 0),
        number_bytes=number,
        masks=masks,
    )
