"""What weight files on disk hold, by name: where each tensor lies, and its values once they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from torch import Tensor

from rtdyn.errors import InputError
from rtdyn.model.families import OLD_BUFFERS


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    name: str
    """In the file."""
    shape: tuple[int, ...]
    floating: bool
    """Whether it holds floating-point numbers."""


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor of the weight files by its name, from their headers alone; other files are passed over.

    Raises InputError for a tensor that lies in two files, and whatever safetensors or torch raise for files they cannot
    read.
    """
    tensors: dict[str, Stored] = {}
    for file in files:
        held = _held(file)
        check_once(held, {name: place.file for name, place in tensors.items()}, file)
        tensors |= held
    return tensors


def check_once(names: Iterable[str], seen: Mapping[str, Path], file: Path) -> None:
    """Raises InputError if a tensor of `file` was seen in another; masks that old checkpoints stored do not count."""
    twice = sorted(name for name in names if name in seen and not OLD_BUFFERS.search(name))
    if twice:
        raise InputError(
            f"the weights in {file.parent} are put together from two saves: {twice[0]} lies in "
            f"{seen[twice[0]].name} and in {file.name}; download the step again"
        )


def _held(file: Path) -> dict[str, Stored]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as handle:
            parts = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 -- not a mapping
            return {
                name: Stored(file, name, tuple(part.get_shape()), "F" in part.get_dtype())
                for name, part in parts.items()
            }
    if file.suffix == ".bin":
        state = torch.load(file, map_location="meta", weights_only=True, mmap=is_zipfile(file))
        return {n: Stored(file, n, tuple(tensor.shape), tensor.is_floating_point()) for n, tensor in state.items()}
    return {}


def read_tensors(wanted: Iterable[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """Each of the tensors with its values, as they are stored, on the CPU; a file is open while its own are read.

    Raises whatever safetensors or torch raise for files they cannot read.
    """
    for file, within in groupby(sorted(wanted, key=_file), key=_file):
        with opened(file) as read:
            for stored in within:
                yield stored, read[stored.name]()


def _file(stored: Stored) -> Path:
    return stored.file


@contextmanager
def opened(file: Path) -> Iterator[dict[str, Callable[[], Tensor]]]:
    """A file's tensors by name, each read from disk when it is called."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as handle:
            yield {name: partial(handle.get_tensor, name) for name in handle.keys()}  # noqa: SIM118 -- not a mapping
    else:
        # files older than torch 1.6 are no archives and have to be read whole
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
        yield {name: partial(state.__getitem__, name) for name in state}
