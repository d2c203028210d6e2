"""Weights in forms that no model can be loaded from: what trainers save before it is put together, and adapters."""

from __future__ import annotations

import re
from collections.abc import Collection

ADAPTER = "adapter_config.json"
_EXPORT = (
    "`python examples/conversion/convert_checkpoints.py export --hf-model NAME --megatron-path FOLDER --hf-path OUT` "
    "of Megatron Bridge, whose guide says how to make the run_config.yaml that Megatron-LM leaves out"
)
_FORMS = (
    (
        r"(global_step\d+/)?layer_\d+-model_\d+-model_states\.pt",
        "its weights are in the layer files of a DeepSpeed pipeline; run `python tools/ckpts/convert_neox_to_hf.py "
        "--input_dir FOLDER --config_file FILE.yml --output_dir OUT` of GPT-NeoX",
    ),
    (
        r"(.*zero_pp_rank_\d+_)?mp_rank_\d+(_\d+)*_(model|optim)_states\.pt",
        "its weights are in the shards of DeepSpeed's ZeRO; run `python zero_to_fp32.py . OUT --tag NAME` in the "
        "folder above, where NAME is this folder's, and put config.json into OUT. DeepSpeed up to 0.15.2 takes "
        "OUT/pytorch_model.bin, in a folder that is there, for OUT",
    ),
    (
        r"zero_to_fp32\.py|global_step\d+/(.*_states\.pt)?",
        "its weights are in the shards of DeepSpeed's ZeRO; run `python zero_to_fp32.py . .` in it, or of DeepSpeed up "
        "to 0.15.2 `python zero_to_fp32.py . pytorch_model.bin`",
    ),
    (
        r"pytorch_model_fsdp_\d+/.*",
        "its weights are in the shards of FSDP; run `accelerate merge-weights pytorch_model_fsdp_0 .` in it",
    ),
    (r"common\.pt", f"its weights are in Megatron's distributed form; run {_EXPORT}"),
    (
        r"\.metadata|.*\.distcp",
        "its weights are in torch's distributed form; run `python -m torch.distributed.checkpoint.format_utils "
        "dcp_to_torch . weights.pt` in it, load weights.pt into the model and save it with save_pretrained",
    ),
    (
        r"mp_rank_\d+(_\d+)*/.*",
        "its weights are in Megatron's shards; let Megatron-LM load and save them with `--ckpt-convert-format "
        f"torch_dist --ckpt-convert-save FOLDER`, then run {_EXPORT}",
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
