"""Weights in forms that no model can be loaded from: what trainers save before it is put together, and adapters."""

from __future__ import annotations

import re
from collections.abc import Collection

ADAPTER = "adapter_config.json"
_FORMS = (
    (
        r"zero_to_fp32\.py|global_step\d+/(.*_states\.pt)?",
        "its weights are in the shards of DeepSpeed's ZeRO; run `python zero_to_fp32.py . .` in it",
    ),
    (
        r"pytorch_model_fsdp_\d+/.*",
        "its weights are in the shards of FSDP; run `accelerate merge-weights pytorch_model_fsdp_0 .` in it",
    ),
    (
        r"\.metadata|.*\.distcp",
        "its weights are in torch's distributed form; run `python -m torch.distributed.checkpoint.format_utils "
        "dcp_to_torch` on it and save the model with save_pretrained",
    ),
    (
        r"mp_rank_\d+.*",
        "its weights are in Megatron's shards; convert it with tools/checkpoint/convert.py of Megatron-LM and save the "
        "model with save_pretrained",
    ),
)
"""Names that trainers give to such files and folders, and what is said of each."""


def is_adapter(names: Collection[str]) -> str | None:
    """Why a folder of these files is no model of its own but changes to one; None if it is.

    transformers would load the base model from wherever the adapter says, so it is refused beside whole weights too.
    """
    if ADAPTER not in names:
        return None
    return (
        f"it holds a PEFT adapter ({ADAPTER}) and not the whole model; merge it into its base first "
        "(merge_and_unload, then save_pretrained)"
    )


def unmerged(names: Collection[str]) -> str | None:
    """Which trainer's shards these are and how to put them together; None if they are of no known form.

    names: of files, those in folders with their path; a folder's own ends in a slash.
    """
    for form, said in _FORMS:
        if any(re.fullmatch(form, name) for name in names):
            return said
    return None
