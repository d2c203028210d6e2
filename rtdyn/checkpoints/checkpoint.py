"""One checkpoint on disk, and its weights as a model that can be trusted to be what the files say."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtdyn.blame import blamed_on, reading
from rtdyn.checkpoints.other_weights import is_adapter, unmerged
from rtdyn.checkpoints.plain_folder import plain_folder
from rtdyn.checkpoints.safetensors_files import read_header
from rtdyn.checkpoints.shards import contradiction
from rtdyn.errors import InputError, brief, json_fault
from rtdyn.git_lfs import refuse_pointer
from rtdyn.hub.names import CONFIG
from rtdyn.model.families import OLD_BUFFERS, check_config
from rtdyn.model.final_mlp import base_model_name
from rtdyn.model.settings import quantised
from rtdyn.model.stored_names import QUANTISED, wrapping
from rtdyn.store.manifest import CheckpointRecord

if TYPE_CHECKING:  # it imports torch
    from rtdyn.checkpoints.stored import Stored

_SINGLE = ("model.safetensors", "pytorch_model.bin")
KEY_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Checkpoint:
    """A step's files in a local folder, with the digests of those that hold weights."""

    step: int
    folder: Path
    revision: str
    commit: str | None
    """The Hub commit the revision stood for, if it came from there."""
    digests: dict[str, str]
    """SHA-256 of each weight file, by name."""
    ranges: bool = False
    """Whether only some tensors were read, by ranges: the digests are then those that the Hub publishes."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, their index included."""
        return tuple(self.folder / name for name in self.digests)

    @property
    def record(self) -> CheckpointRecord:
        """What the run directory keeps of it."""
        record = CheckpointRecord(revision=self.revision, commit=self.commit, digests=self.digests)
        return record.replace(read_by_ranges=True) if self.ranges else record


def weight_files(names: set[str], read_index: Any, where: str) -> list[str]:
    """The files to load weights from, of the `names` a folder or revision holds: safetensors before `.bin`.

    read_index(name) gives an index file's parsed JSON. Raises InputError if there are none of a whole model.
    """
    if (why := is_adapter(names)) is not None:
        raise InputError(f"{where}: {why}")
    for single, index in zip(_SINGLE, _INDEX, strict=True):
        if single in names:
            return [single]
        if index in names:
            weight_map = read_index(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise InputError(f"{where}: {index} names no shards; download it again")
            shards = sorted(set(weight_map.values()), key=str)
            outside = [s for s in shards if not isinstance(s, str) or s in ("", ".", "..") or set(s) & set("/\\")]
            if outside:
                raise InputError(f"{where}: {index} names a shard outside its folder ({outside[0]!r}); do not use it")
            absent = [s for s in shards if s not in names]
            if absent:
                raise InputError(f"{where}: the shard {absent[0]} is missing; download it again")
            return [index, *shards]
    if (why := unmerged(names)) is not None:
        raise InputError(f"{where}: {why}")
    raise InputError(f"{where} holds no weights (neither {' nor '.join(_SINGLE)})")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from `file`. Raises InputError if it is missing or is not one."""
    if not file.exists():
        raise InputError(f"{file.parent} has no {file.name}; a checkpoint needs it beside its weights")
    try:
        with reading(str(file)):
            refuse_pointer(file)
            data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file} is not readable JSON ({json_fault(error)}); correct it, or download it again"
        ) from None
    if not isinstance(data, dict):
        raise InputError(f"{file} does not hold a JSON object; download it again")
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises InputError for a family that is not supported, and quantised weights."""
    config = read_json(folder / CONFIG)
    check_config(config, str(folder))
    return config


def sha256_of(file: Path) -> str:
    """Hex SHA-256 of a file's bytes. Raises InputError if it cannot be read."""
    with reading(str(file)), file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_files(checkpoint: Checkpoint) -> None:
    """Raises InputError for a config.json or weight files that cannot be what was saved."""
    read_config(checkpoint.folder)
    held, weight_map = {}, {}
    for name in checkpoint.digests:
        with reading(str(checkpoint.folder / name)):
            refuse_pointer(checkpoint.folder / name)
        if name.endswith(".safetensors") and not checkpoint.ranges:
            held[name] = read_header(checkpoint.folder / name).tensors
        elif name in _INDEX:
            weight_map = read_json(checkpoint.folder / name)["weight_map"]
    if told := contradiction(weight_map, held):
        raise InputError(
            f"the weights in {checkpoint.folder} are put together from two saves: {told}; download the step again"
        )


def load_model(checkpoint: Checkpoint, device: str) -> Any:
    """The checkpoint as transformers' own model, float32, in evaluation mode, on `device`.

    Nothing in the checkpoint is executed: `trust_remote_code` is off, `.bin` files are read with
    `weights_only`. Raises InputError for damaged, missing, unexpected or non-finite weights.
    """
    import torch
    import transformers

    from rtdyn.checkpoints.stored import stored_tensors

    folder = checkpoint.folder
    check_files(checkpoint)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    auto: Any = transformers.AutoModelForCausalLM
    with loading(folder):
        base = base_model_name(str(read_config(folder)["model_type"]))
        stored = stored_tensors(checkpoint.files)
        check_numbers(folder, stored)
        prefix = wrapping(stored.keys(), base)
        with plain_folder(folder) as plain:
            model, info = auto.from_pretrained(
                plain,
                dtype=torch.float32,
                attn_implementation="eager",
                trust_remote_code=False,
                local_files_only=True,
                weights_only=True,
                use_safetensors=any(n.endswith(".safetensors") for n in checkpoint.digests),
                output_loading_info=True,
                key_mapping={f"^{re.escape(prefix)}": ""} if prefix else None,
            )
    check_keys(folder, {k: set(map(str, info.get(k) or ())) for k in KEY_FAULTS})
    for name, parameter in model.named_parameters():
        check_finite(folder, name, parameter)
    return model.eval().requires_grad_(False).to(device)


def check_keys(folder: Path, faults: Mapping[str, set[str]]) -> None:
    """Raises InputError for names among `faults`, by one of KEY_FAULTS; old checkpoints may hold their constants."""
    if (sign := next(filter(QUANTISED.search, sorted(faults["unexpected_keys"])), None)) is not None:
        raise quantised(str(folder), f"it holds {sign}")  # which is why others are missing
    for kind in KEY_FAULTS:
        keys = sorted(k for k in faults[kind] if kind != "unexpected_keys" or not OLD_BUFFERS.search(k))
        if keys:
            names = ", ".join(keys[:3])
            raise InputError(f"the weights in {folder} do not fit their config.json: {kind.replace('_', ' ')} {names}")


def check_numbers(folder: Path, stored: Mapping[str, Stored]) -> None:
    """Raises InputError for weights that are stored as whole numbers; old checkpoints may hold their masks so."""
    whole = [name for name, place in stored.items() if not place.floating and not OLD_BUFFERS.search(name)]
    if whole:
        raise quantised(str(folder), f"{whole[0]} holds whole numbers")


def check_finite(folder: Path, name: str, weights: Any) -> None:
    """Raises InputError unless every number of the tensor `weights` is finite."""
    # NaN is the least and the largest of what holds it; isfinite would make a copy
    if weights.numel() and not all(end.isfinite() for end in weights.aminmax()):
        raise InputError(f"the weights in {folder} hold NaN or infinite values (in {name}); leave this step out")


def loading(folder: Path) -> AbstractContextManager[None]:
    """Has what a library says of the folder's weights become one sentence, and passes what is not about them."""
    what = f"the weights in {folder}"
    return blamed_on(what, lambda error: InputError(f"{what} cannot be loaded ({brief(error)})"))
