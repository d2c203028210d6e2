"""The tensors in a checkpoint's files, read a few at a time, nothing of a file staying in memory after."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from rtdyn.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    name: str
    """In the file."""
    shape: tuple[int, ...]


def stored_tensors(checkpoint: Checkpoint) -> dict[str, Stored]:
    """Every tensor of the checkpoint by its name, from the files' headers alone.

    Raises whatever safetensors or torch raise for files they cannot read.
    """
    found: dict[str, Stored] = {}
    for file in (checkpoint.folder / name for name in checkpoint.digests):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as handle:
                found |= {n: Stored(file, n, tuple(handle.get_slice(n).get_shape())) for n in handle.keys()}  # noqa: SIM118 -- not a mapping
        elif file.suffix == ".bin":
            state = torch.load(file, map_location="meta", weights_only=True)
            found |= {n: Stored(file, n, tuple(tensor.shape)) for n, tensor in state.items()}
    return found


def read_tensors(wanted: Iterable[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """Each of the tensors with its values, as they are stored, on the CPU; a file is open while its own are read.

    Raises whatever safetensors or torch raise for files they cannot read.
    """
    for file, own in groupby(sorted(wanted, key=lambda one: one.file), key=lambda one: one.file):
        with _opened(file) as tensor:
            for one in own:
                yield one, tensor(one.name)


@contextmanager
def _opened(file: Path) -> Iterator[Callable[[str], Tensor]]:
    """Gives a file's tensors by name, each read from disk when it is first used."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as handle:
            yield handle.get_tensor
    else:
        # files older than torch 1.6 are no archives and have to be read whole
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        yield state.__getitem__
