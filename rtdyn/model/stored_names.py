"""The names that tensors have in a checkpoint's files, where they are not those of the family's own modules."""

from __future__ import annotations

import re
from collections.abc import Collection

from rtdyn.errors import InputError
from rtdyn.model.settings import quantised

WRAPPINGS = ("_orig_mod.", "module.", "base_model.model.", "model.")
"""What torch.compile, DataParallel, merged adapters and Lightning put before every name."""
_OF_THE_BASE = (
    r"(decoder|layers|h|embed_tokens|embed_in|wte|wpe|word_embeddings|word_embeddings_layernorm|norm|final_layer_norm|"
    r"final_layernorm|ln_f)\."
)
"""Modules that stand right under the base model of one family or another."""
_HEADS = r"(lm_head|embed_out)\."
_LAYER = re.compile(r"(decoder\.)?(layers|h)\.(?P<layer>\d+)\.")
_ROUNDED = "qweight|qzeros|g_idx|SCB|absmax|quant_map|quant_state|weight_packed|weight_scale|weight_scale_inv"
QUANTISED = re.compile(rf"[._]({_ROUNDED})(\.|$)")
"""What the names of quantised weights end in, by GPTQ, AWQ, bitsandbytes, compressed-tensors and DeepSeek's."""
_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "word_embeddings")


def wrapping(names: Collection[str], base: str) -> str:
    """What a wrapper put before all of `names`: one of WRAPPINGS, several of them nested, or nothing.

    base: the name of the family's base model, such as `gpt_neox` or `model`. A name that begins as the family's own
    names do ends the prefix. It is empty unless every name has it.
    """
    own = re.compile(rf"({re.escape(base)}\.)?{_OF_THE_BASE}|{_HEADS}")
    prefix = ""
    while not any(own.match(name, len(prefix)) for name in names):
        further = [prefix + w for w in WRAPPINGS if names and all(name.startswith(prefix + w) for name in names)]
        if not further:
            return ""
        prefix = further[0]
    return prefix


def stored_name(tensor: str, names: Collection[str], where: str) -> str:
    """The name of a tensor among those of a file; a model saved without its head lacks the first part.

    A prefix that a wrapper put before all names is kept. Raises InputError if it is not there.
    """
    base, _, rest = tensor.partition(".")
    prefix = wrapping(names, base)
    for name in (prefix + tensor, prefix + rest):
        if name in names:
            return name
    if (sign := next(filter(QUANTISED.search, sorted(names)), None)) is not None:
        raise quantised(where, f"it holds {sign}")
    raise InputError(f"{where} holds no {tensor}; its weights do not fit its config.json")


def plain_names(names: Collection[str], base: str) -> dict[str, str]:
    """By name in a file: the name without a wrapper's prefix and the base model's, and old heads by their new name."""
    prefix = wrapping(names, base)
    plain = {name: name.removeprefix(prefix).removeprefix(f"{base}.") for name in names}
    return {name: re.sub(r"^embed_out\.", "lm_head.", short) for name, short in plain.items()}


def part_of(name: str) -> str:
    """The part of a model that a tensor of this plain name belongs to: `layer 3`, `embedding`, `unembedding`."""
    layer = _LAYER.match(name)
    if layer:
        return f"layer {layer['layer']}"
    module = name.removeprefix("decoder.").partition(".")[0]
    return "embedding" if module in _EMBEDDINGS else "unembedding" if module == "lm_head" else module
