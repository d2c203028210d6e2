"""Families that are no dense transformers, and why one final MLP cannot be measured in them."""

from __future__ import annotations

import re

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
