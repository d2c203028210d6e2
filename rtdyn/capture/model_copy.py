"""A model that is in memory already, as an analysis needs it, while its owner's stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers

from rtdyn.checkpoints.checkpoint import KEY_FAULTS
from rtdyn.errors import InputError, brief
from rtdyn.model.families import check_config

_UNWRAP = (
    "give transformers' own model: `model._orig_mod` of torch.compile, `model.module` of a data-parallel one, "
    "`model.merge_and_unload()` of a model with adapters"
)


def model_copy(model: Any, device: str) -> Any:
    """The model's weights in a model of its class, float32, eager attention, in evaluation mode, on `device`.

    Numbers that are float32 on that device already are shared and not copied. Hooks stay behind. Raises InputError for
    a family that is not supported, a model that is not transformers' own class, and NaN or infinite weights.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        raise InputError(f"the model is a {type(model).__name__}; {_UNWRAP}")
    check_config(model.config.to_dict(), "the model")
    own: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(model.config)]
    if type(model) is not own:
        raise InputError(f"the model is a {type(model).__name__} and not transformers' {own.__name__}; {_UNWRAP}")
    weights = {name: values.detach() for name, values in model.state_dict().items()}
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        loaded: Any = own.from_pretrained(
            None,
            config=copy.deepcopy(model.config),
            state_dict=weights,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the model cannot be copied ({brief(error)}); {_UNWRAP}") from error
    copied, found = loaded
    for kind in KEY_FAULTS:
        if names := sorted(map(str, found.get(kind) or ())):
            raise InputError(f"the model has {kind.replace('_', ' ')} {', '.join(names[:3])}; {_UNWRAP}")
    for name, parameter in copied.named_parameters():
        if parameter.numel() and not all(end.isfinite() for end in parameter.aminmax()):
            raise InputError(f"the model's weights hold NaN or infinite values (in {name})")
    return copied.eval().requires_grad_(False).to(device)
