"""Families that are no dense transformers, settings of others that leave no closed form, and why they are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rtdyn.model.layouts import LAYOUTS

_EXPERTS = (
    r".*moe.*|.*_moe|mixtral|dbrx|gpt_oss|deepseek_v[2-9]\d*|jetmoe|phimoe|arctic|llama4|llama4_text|minimax|grok.*|"
    r"afmoe|nllb_moe|switch_transformers|glm_moe_dsa|hunyuan_v1_moe"
)
_MIXERS = (
    r".*mamba.*|jamba|bamba|zamba2?|falcon_h1|nemotron_h.*|recurrent_gemma|rwkv|xlstm|lfm2|qwen3_next|.*hybrid|"
    r"griffin|retnet|hyena.*"
)


def why_not_dense(model_type: str) -> str | None:
    """What a family is instead of a dense transformer, and what that means here; None for one that may be."""
    if re.fullmatch(_EXPERTS, model_type):
        return "a mixture of experts, of which a token passes some only, so that no neuron is measured on all"
    if re.fullmatch(_MIXERS, model_type):
        return "no transformer throughout: layers that are no attention mix its tokens"
    return None


def why_no_closed_form(family: str, config: Mapping[str, Any]) -> str | None:
    """What a setting of a supported family does that rtdyn has no closed form for; None where nothing does.

    config: the settings of a config.json, in which those may be absent that are the family's own.
    """
    for name, of_what in (("final_logit_softcapping", "logits"), ("attn_logit_softcapping", "attention's scores")):
        cap = config.get(name)
        if cap and not LAYOUTS[family].capped:
            return (
                f"says in config.json that its {of_what} are capped ({name} {cap}), which transformers' code lacks; "
                "take the setting out if the model was trained without it"
            )
        if cap is not None and LAYOUTS[family].capped and not (isinstance(cap, int | float) and 0 < cap < math.inf):
            return f"has {name} {cap} in its config.json; give a number above 0, or null for no cap"
    if config.get("use_bidirectional_attention"):
        return "attends to later tokens (use_bidirectional_attention), so that it predicts none; give a causal model"
    if family == "opt" and not (
        config.get("do_layer_norm_before", True)
        and not config.get("_remove_final_layer_norm", False)
        and config.get("word_embed_proj_dim", config.get("hidden_size")) == config.get("hidden_size")
    ):
        return (
            "does not end in a norm that the unembedding reads (do_layer_norm_before, _remove_final_layer_norm, "
            "word_embed_proj_dim), as OPT-350m does not; give another size"
        )
    if family == "bloom" and config.get("apply_residual_connection_post_layernorm"):
        return (
            "adds to a normalised stream (apply_residual_connection_post_layernorm), along which no earlier layer "
            "reaches the last; give a model without it"
        )
    if family == "bloom" and config.get("slow_but_exact") and config.get("pretraining_tp", 1) > 1:
        return "sums its projections in pieces (slow_but_exact); set slow_but_exact to false in its config.json"
    return None
