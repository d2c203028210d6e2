"""Some tensors of a checkpoint and not the others: from files on disk, or from safetensors on the Hub by ranges."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rtdyn.blame import reading
from rtdyn.checkpoints.checkpoint import check_finite, loading, read_json, weight_files
from rtdyn.checkpoints.safetensors_files import read_header, safetensors_header
from rtdyn.checkpoints.stored import check_once, opened
from rtdyn.errors import InputError
from rtdyn.git_lfs import refuse_pointer
from rtdyn.hub.names import CONFIG
from rtdyn.hub.ranges import Transfer, stream_range
from rtdyn.hub.remote_file import RemoteFile
from rtdyn.hub.repository import Revision
from rtdyn.model.final_mlp import FinalMlp, final_mlp
from rtdyn.model.stored_names import stored_name

PARTIAL = "model.safetensors"
"""The file that the tensors read by ranges are put into."""


@dataclass(frozen=True)
class TensorRange:
    """A tensor in a remote safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: RemoteFile
    start: int
    stop: int
    """Bytes of the file."""


def mlp_tensors(mlp: FinalMlp) -> list[str]:
    """The names of the tensors that the final MLP consists of."""
    return list(dict.fromkeys(matrix.tensor for matrix in (*mlp.inputs.values(), mlp.output)))


def remote_tensors(
    revision: Revision, files: Sequence[RemoteFile], wanted: Collection[str], transfer: Transfer
) -> tuple[TensorRange, ...]:
    """Where the wanted tensors are in safetensors files, found by their headers alone.

    Raises InputError if one is not there or a header is damaged.
    """
    ranges: dict[str, TensorRange] = {}
    for file in files:
        if not file.name.endswith(".safetensors"):
            continue
        what = f"{revision.what}: {file.name}"

        def part(start: int, stop: int, file: RemoteFile = file) -> bytes:
            return b"".join(stream_range(revision.source, file, start, stop, transfer))

        header, data = safetensors_header(part, file.size, what)
        ranges.update({name: _range(name, entry, file, data, what) for name, entry in header.items()})
    return tuple(ranges[stored_name(tensor, ranges.keys(), revision.what)] for tensor in wanted)


def _range(name: str, entry: Any, file: RemoteFile, data: int, what: str) -> TensorRange:
    try:
        start, stop = (data + int(offset) for offset in entry["data_offsets"])
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
    except (TypeError, KeyError, ValueError):
        raise InputError(f"{what} has a damaged safetensors header; download it again") from None
    if not data <= start <= stop <= file.size:
        raise InputError(f"{what} has a damaged safetensors header; download it again")
    return TensorRange(name, dtype, shape, file, start, stop)


def write_partial(path: Path, revision: Revision, tensors: Sequence[TensorRange], transfer: Transfer) -> None:
    """A safetensors file with these tensors alone, read by ranges.

    No digest covers a range: its length, and that its numbers are finite, is all that can be checked.
    """
    header: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        size = tensor.stop - tensor.start
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    try:
        with path.open("wb") as handle:
            handle.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors:
                for data in stream_range(revision.source, tensor.file, tensor.start, tensor.stop, transfer):
                    handle.write(data)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); make room, or give less --cache-gb"
        ) from error


def read_final_mlp(folder: Path) -> tuple[FinalMlp, Mapping[str, Any], Any]:
    """The final MLP's place, its input matrices by name and its output matrix: float32 tensors (F, d).

    Only these tensors are read of safetensors files; a `.bin` is read with `weights_only`. Raises InputError for
    weights that are damaged, of the wrong shape or not finite.
    """
    mlp = final_mlp(read_json(folder / CONFIG), str(folder))
    stored = _read(folder, mlp_tensors(mlp))
    for name, tensor in stored.items():
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 2 or not tensor.is_floating_point():
            raise InputError(f"the weights in {folder} do not fit their config.json: {name} is no matrix of numbers")
        check_finite(folder, name, tensor)
    inputs = {key: matrix.rows(stored[matrix.tensor].float()) for key, matrix in mlp.inputs.items()}
    output = mlp.output.rows(stored[mlp.output.tensor].float())
    if any(rows.shape != output.shape for rows in inputs.values()):
        raise InputError(f"the weights in {folder} do not fit their config.json: the final MLP's matrices differ")
    return mlp, inputs, output


def _read(folder: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """What the files hold by the names wanted, as it is stored."""
    with reading(str(folder)):
        names = {child.name for child in folder.iterdir() if child.is_file()}
    files = [
        folder / name
        for name in weight_files(names, lambda name: read_json(folder / name), str(folder))
        if not name.endswith(".json")
    ]
    read: dict[str, Callable[[], Any]] = {}
    lies_in: dict[str, Path] = {}
    with loading(folder), ExitStack() as stack:
        for file in files:
            refuse_pointer(file)
            if file.suffix == ".safetensors":
                read_header(file)
            held = stack.enter_context(opened(file))
            check_once(held, lies_in, file)
            read, lies_in = read | held, lies_in | dict.fromkeys(held, file)
        names_of = {tensor: stored_name(tensor, read.keys(), str(folder)) for tensor in wanted}
        return {tensor: read[name]() for tensor, name in names_of.items()}
