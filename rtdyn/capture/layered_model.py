"""A checkpoint as a model whose weights are read a module at a time and dropped, and when that is needed.

The model is transformers' own, built on torch's meta device, where weights have shapes and no memory. Which tensor of
the files is which parameter is transformers' decision too: its renamings (Pythia's `embed_out` is its `lm_head`), its
base-model prefix, its tied weights. The checks are those of a checkpoint that is loaded whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from rtdyn.capture.free_memory import return_freed
from rtdyn.checkpoints.checkpoint import (
    Checkpoint,
    check_files,
    check_finite,
    check_keys,
    check_numbers,
    load_model,
    loading,
)
from rtdyn.checkpoints.plain_folder import plain_folder
from rtdyn.checkpoints.stored import Stored, read_tensors, stored_tensors
from rtdyn.errors import InputError
from rtdyn.model.stored_names import wrapping


@dataclass(frozen=True)
class LayeredModel:
    """A model of which only those weights are in memory that were filled and not yet dropped."""

    skeleton: Any
    """transformers' model, in evaluation mode."""
    folder: Path
    stored: Mapping[str, Stored]
    """By parameter or stored buffer, tied ones included, where its values lie."""
    device: str
    memory_bytes: int
    """What hidden states may take before they go to a file."""

    def get_output_embeddings(self) -> Any:
        """The unembedding, as transformers' models give it."""
        return self.skeleton.get_output_embeddings()

    def fill(self, *modules: nn.Module) -> None:
        """Reads these modules' weights, float32, onto the device.

        Raises InputError for damaged files and for NaN or infinite values.
        """
        names: dict[Stored, list[str]] = {}
        for prefix, module in self.skeleton.named_modules():
            if module in modules:
                _compute_buffers(self.skeleton, module, self.device)
                for name in module.state_dict(prefix=f"{prefix}." if prefix else ""):
                    names.setdefault(self.stored[name], []).append(name)
        weights: dict[str, torch.Tensor] = {}
        with loading(self.folder):
            for place, values in read_tensors(names):
                weights |= dict.fromkeys(names[place], values.to(self.device, torch.float32))
        for name, values in weights.items():
            check_finite(self.folder, name, values)
        self.skeleton.load_state_dict(weights, strict=False, assign=True)

    def drop(self, *modules: nn.Module) -> None:
        """Gives back the memory of these modules' weights."""
        for module in modules:
            module.to_empty(device="meta")
        return_freed()


def open_model(checkpoint: Checkpoint, device: str, by_layers: bool, memory_bytes: int) -> Any:
    """The checkpoint as transformers' own model, or as a LayeredModel, whose hidden states may take `memory_bytes`.

    Raises InputError for weights that cannot be used.
    """
    check_files(checkpoint)
    if not by_layers:
        return load_model(checkpoint, device)
    skeleton = _skeleton(checkpoint, device)
    return LayeredModel(skeleton, checkpoint.folder, _places(checkpoint, skeleton), device, memory_bytes)


def _skeleton(checkpoint: Checkpoint, device: str) -> Any:
    """The model its config.json describes, without weights; what it computes from the config alone is on the device."""
    auto: Any = transformers.AutoModelForCausalLM
    transformers.utils.logging.set_verbosity_error()
    with loading(checkpoint.folder):
        with plain_folder(checkpoint.folder) as plain:
            config = transformers.AutoConfig.from_pretrained(plain, local_files_only=True)
        with torch.device("meta"):
            model = auto.from_config(config, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False)
        _compute_buffers(model, model, device)
    return model.eval().requires_grad_(False)


def _compute_buffers(skeleton: Any, within: nn.Module, device: str) -> None:
    """Gives the modules `within` what they compute from the config alone, such as rotary frequencies, on the device.

    It is computed as transformers does for a model that it loads.
    """
    stored = {id(values) for values in within.state_dict(keep_vars=True).values()}
    for module in within.modules():
        computed = {name: b for name, b in module.named_buffers(recurse=False) if id(b) not in stored}
        for name, values in computed.items():
            # NaN, so that what transformers left out would be seen
            module.register_buffer(name, torch.full_like(values, torch.nan, device=device), persistent=False)
        if computed:
            skeleton._init_weights(module)


def _places(checkpoint: Checkpoint, skeleton: Any) -> dict[str, Stored]:
    """Where each parameter's values lie. Raises InputError for missing and unexpected names and other shapes."""
    with loading(checkpoint.folder):
        stored = stored_tensors(checkpoint.files)
    check_numbers(checkpoint.folder, stored)
    expected = skeleton.state_dict(keep_vars=True)
    transforms = get_model_conversion_mapping(skeleton)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    places: dict[str, Stored] = {}
    unexpected: set[str] = set()
    base = skeleton.base_model_prefix
    wrapped = len(wrapping(stored.keys(), base))
    for name, place in stored.items():
        target, converter = rename_source_key(
            name[wrapped:], renamings, converters, skeleton.base_model_prefix, expected
        )
        if converter is not None:
            raise InputError(
                f"the weights in {checkpoint.folder} hold {name}, which several weights are made from; "
                "they cannot be read by layers, use --stream-layers never"
            )
        if target in expected:
            places[target] = place
        else:
            unexpected.add(target)
    ignored = skeleton._keys_to_ignore_on_load_unexpected or ()
    faults = {
        "missing_keys": expected.keys() - _tied(places, expected).keys(),
        "unexpected_keys": {name for name in unexpected if not any(re.search(p, name) for p in ignored)},
        "mismatched_keys": {name for name, place in places.items() if place.shape != tuple(expected[name].shape)},
    }
    check_keys(checkpoint.folder, faults)
    return _tied(places, expected)


def _tied(places: Mapping[str, Stored], parameters: Mapping[str, torch.Tensor]) -> dict[str, Stored]:
    """places, with those of parameters that are not stored themselves and are one with a stored one."""
    by_parameter = {id(parameters[name]): place for name, place in places.items()}
    tied = {name: by_parameter.get(id(parameter)) for name, parameter in parameters.items()}
    return {name: place for name, place in {**tied, **places}.items() if place is not None}
