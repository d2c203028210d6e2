"""Settings of a config.json that do not describe the model: how a program ran it, and that its weights were rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtdyn.errors import InputError

_NUMBERS = ("float16", "bfloat16", "float32", "float64")
_OF_A_PROGRAM: Mapping[str, tuple[Any, ...]] = {
    "dtype": _NUMBERS,
    "torch_dtype": _NUMBERS,
    "attn_implementation": ("eager", "sdpa"),
    "_attn_implementation": ("eager", "sdpa"),
    "_attn_implementation_internal": ("eager", "sdpa"),
    "return_dict": (True,),
    "use_return_dict": (),
    "torchscript": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
}
"""How a program held weights, computed attention and answered, with the values that transformers takes as they are.

rtdyn chooses all of it itself."""
_QUANTISATIONS = ("quantization_config", "quantization", "compression_config")
"""transformers' key, MLX's, and that of older compressed-tensors."""


def settings_of_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what the model computes."""
    return {key: value for key, value in config.items() if key not in _OF_A_PROGRAM}


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether transformers takes the program's settings in it as they are."""
    return all(config.get(key) in (None, *values) for key, values in _OF_A_PROGRAM.items())


def check_not_quantised(config: Mapping[str, Any], where: str) -> None:
    """Raises InputError if a config.json says that the weights are quantised."""
    for key in _QUANTISATIONS:
        how = config.get(key)
        if how:
            method = how.get("quant_method", how.get("format")) if isinstance(how, dict) else None
            bits = how.get("bits") if isinstance(how, dict) else None
            said = " ".join(map(str, filter(None, (method, f"{bits} bits" if bits else None))))
            raise quantised(where, f"its config.json has {key}{f': {said}' if said else ''}")


def quantised(where: str, sign: str) -> InputError:
    """What is said of a checkpoint whose numbers were rounded."""
    return InputError(
        f"{where} is quantised ({sign}), so its weights are not those that were trained; "
        "use the checkpoint as it was before"
    )
