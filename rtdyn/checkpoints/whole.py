"""Whether a checkpoint that somebody may still be writing is whole. A folder's existence proves nothing."""

from __future__ import annotations

from pathlib import Path
from zipfile import is_zipfile

from rtdyn.checkpoints.checkpoint import read_json, weight_files
from rtdyn.checkpoints.safetensors_files import read_header
from rtdyn.errors import InputError
from rtdyn.hub.names import CONFIG

State = frozenset[tuple[str, int, int]]
"""A folder's files: the name, size in bytes and time of the last change in ns of each."""


def whole_state(folder: Path) -> State | None:
    """The state of a checkpoint's folder; None unless config.json and every weight file are there in full length.

    A safetensors file has the length that its header says, and a `.bin` file the end of its archive. Two equal states
    some time apart say that nobody is writing any more. An optimiser's state is often written after the weights, and
    what a trainer notes of the step last.
    """
    try:
        names = {child.name for child in folder.iterdir() if child.is_file()}
        read_json(folder / CONFIG)
        weights = weight_files(names, lambda name: read_json(folder / name), str(folder))
        for name in weights:
            if name.endswith(".safetensors"):
                read_header(folder / name)
            elif name.endswith(".bin") and not is_zipfile(folder / name):
                return None
        return frozenset(_stat(folder / name) for name in names)
    except (InputError, OSError):
        return None  # it is being written, renamed or deleted; what is wrong with a finished one is said where it loads


def _stat(file: Path) -> tuple[str, int, int]:
    stat = file.stat()
    return file.name, stat.st_size, stat.st_mtime_ns
