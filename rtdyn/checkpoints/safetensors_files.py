"""Safetensors files: whether one is whole, and what its header lists."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtdyn.blame import reading
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.git_lfs import LONGEST, is_pointer, pointer_error


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: frozenset[str]
    metadata: Mapping[str, str]
    """What the writer noted, such as the format."""
    bytes: int
    """Of all tensors."""


def read_header(file: Path) -> Header:
    """The header of a safetensors file. Raises InputError if it cannot be read, or is not as long as it says."""
    with reading(str(file)), file.open("rb") as handle:

        def read(start: int, stop: int) -> bytes:
            handle.seek(start)
            return handle.read(stop - start)

        tensors, data = safetensors_header(read, file.stat().st_size, str(file))
        noted = json.loads(read(8, data)).get("__metadata__") or {}
        metadata = {key: str(value) for key, value in noted.items()}
        return Header(frozenset(tensors), metadata, file.stat().st_size - data)


def safetensors_header(read: Callable[[int, int], bytes], size: int, what: str) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file by tensor, and where the data begin that its `data_offsets` count from.

    read(start, stop) gives bytes of the file. Raises InputError if it is damaged or another length than it says.
    """
    if size < LONGEST and is_pointer(read(0, size)):
        raise pointer_error(what)
    prefix = read(0, min(8, size))
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
    if 8 + length > size:
        raise InputError(f"{what} is truncated or not a safetensors file ({counted(size, 'byte')}); download it again")
    try:
        header = json.loads(read(8, 8 + length))
        metadata = header.pop("__metadata__", None)
        end = max((t["data_offsets"][1] for t in header.values()), default=0)
        if not isinstance(metadata, dict | None):
            raise TypeError
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise InputError(f"{what} has a damaged safetensors header; download it again") from None
    if 8 + length + end != size:
        raise InputError(f"{what} is truncated: {counted(size, 'byte')} of {8 + length + end:,}; download it again")
    return header, 8 + length
