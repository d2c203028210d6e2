"""A forward pass one layer at a time: all batches through a block, then its weights make room for the next block's.

What is computed is transformers' own code. Its model runs on each batch as far as the first block. Every block is
passed what it passes there, but for what the family passes of positions. That may differ from block to block. The mask
does not: windows are no longer than any layer reaches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtdyn.capture.layered_model import LayeredModel
from rtdyn.errors import InputError
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.families import anatomy

FLOAT32_BYTES = 4
_Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""By position, after the hidden states, and by name."""


def by_layers(model: LayeredModel, batches: Sequence[Tensor], stay: int) -> tuple[Anatomy, Iterator[Tensor]]:
    """The anatomy, whose final `stay` blocks, norm and unembedding are in memory, and each batch's last hidden states.

    batches: int64 (batch, T) of token ids. All earlier blocks run before this returns; the final ones, batch after
    batch, as the iterator is read. Memory: one block, or the embedding, or what stays; and the hidden states. These go
    to a file where they are larger than the model's `memory_bytes`. Raises InputError for weights that cannot be used.
    """
    parts = anatomy(model.skeleton)
    early, final = parts.stack[:-stay], parts.stack[-stay:]
    embeddings = _embeddings(parts)
    hidden = _HiddenStates(batches, len(model.get_output_embeddings().weight[0]), model.memory_bytes)
    arguments: dict[int, _Arguments] = {}
    ids = torch.arange(batches[0].shape[1], device=model.device)
    model.fill(*embeddings)
    for number, batch in enumerate(batches):
        state, arguments[len(batch)] = _entering(parts, batch.to(model.device))
        hidden.put(number, state)
    model.drop(*embeddings)

    def through(block: nn.Module, state: Tensor) -> Tensor:
        args, kwargs = arguments[len(state)]
        output = block(state, *args, **{**kwargs, **parts.positions(block, state, ids[None], ids)})
        return output[0] if isinstance(output, tuple) else output

    for block in early:
        model.fill(block)
        with torch.inference_mode():
            for number in range(len(batches)):
                hidden.put(number, through(block, hidden.get(number).to(model.device)))
        model.drop(block)

    def last_hidden_states() -> Iterator[Tensor]:
        for number in range(len(batches)):
            state = hidden.get(number).to(model.device)
            for block in final:
                state = through(block, state)
            yield parts.final_norm(state)

    model.fill(*final, parts.final_norm, model.get_output_embeddings())
    return anatomy(model.skeleton), last_hidden_states()


def forget(model: LayeredModel) -> None:
    """Gives back what earlier runs left in memory of the model, whose anatomies then hold no weights."""
    parts = anatomy(model.skeleton)
    model.drop(*parts.stack, parts.final_norm, model.get_output_embeddings())


@contextmanager
def filled_on_the_way(model: LayeredModel) -> Iterator[None]:
    """While held, `model.skeleton` can be called: each module is filled as the call comes to it, and dropped after it.

    Memory: one block, or an embedding. The call raises InputError for weights that cannot be used.
    """
    parts = anatomy(model.skeleton)
    handles = []
    for part in (*_embeddings(parts), *parts.stack, parts.final_norm, model.get_output_embeddings()):
        handles.append(part.register_forward_pre_hook(lambda module, inputs: model.fill(module)))
        handles.append(part.register_forward_hook(lambda module, inputs, output: model.drop(module)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _embeddings(parts: Anatomy) -> list[nn.Module]:
    """What the backbone runs before its first block that has weights."""
    return [
        child
        for child in parts.backbone.children()
        if next(child.parameters(), None) is not None and not {*parts.stack, parts.final_norm} & {*child.modules()}
    ]


class _Entered(Exception):
    """A forward pass has come to the first block."""


def _entering(parts: Anatomy, batch: Tensor) -> tuple[Tensor, _Arguments]:
    """What the model passes its first block for the batch: hidden states, and all other arguments."""
    passed: list[tuple[Tensor, _Arguments]] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        passed.append((args[0], (args[1:], kwargs)))
        raise _Entered

    handle = parts.stack[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.inference_mode():
            parts.backbone(batch, use_cache=False)
    except _Entered:
        return passed[0]
    finally:
        handle.remove()
    raise AssertionError("the model ran without its first block")


class _HiddenStates:
    """float32 (batch, T, d) of each batch, on the CPU; in a file that goes with the process where all are too large.

    Each batch has its place for good: new arrays in every layer would leave the heap in pieces.
    """

    def __init__(self, batches: Sequence[Tensor], width: int, memory_bytes: int) -> None:
        ends = np.cumsum([len(batch) for batch in batches]).tolist()
        self.rows = [slice(end - len(batch), end) for end, batch in zip(ends, batches, strict=True)]
        self.shape = (*batches[0].shape[1:], width)
        self.row_bytes = int(np.prod(self.shape)) * FLOAT32_BYTES
        self.bytes = ends[-1] * self.row_bytes
        fits = self.bytes <= memory_bytes
        self.held = torch.empty(ends[-1], *self.shape) if fits else None
        self.file = None if fits else tempfile.TemporaryFile()  # noqa: SIM115 -- open as long as this lives

    def put(self, number: int, state: Tensor) -> None:
        rows = self.rows[number]
        if self.held is not None:
            self.held[rows] = state
        if self.file is None:
            return
        self.file.seek(rows.start * self.row_bytes)
        try:
            self.file.write(_bytes(state.cpu().contiguous()))
            self.file.flush()
        except OSError as error:
            raise InputError(
                f"the {self.bytes / 2**30:.1f} GiB of hidden states do not fit into {tempfile.gettempdir()} ({error}); "
                "let TMPDIR name a larger disk, raise --memory-gib or give fewer --tokens"
            ) from None

    def get(self, number: int) -> Tensor:
        rows = self.rows[number]
        if self.held is not None:
            return self.held[rows]
        state = torch.empty(rows.stop - rows.start, *self.shape)
        if self.file is not None:
            self.file.seek(rows.start * self.row_bytes)
            self.file.readinto(_bytes(state))
        return state


def _bytes(values: Tensor) -> memoryview:
    """The tensor's own memory."""
    return values.numpy().data.cast("B")
