"""What is kept of layers before the last: the stream that enters the first of them, activations, and attention."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtdyn.capture.by_layers import by_layers
from rtdyn.capture.collect import Moments, Rows
from rtdyn.capture.forward_pass import Capture, in_memory
from rtdyn.capture.layered_model import LayeredModel
from rtdyn.errors import OverflowedError
from rtdyn.model.anatomy import Anatomy, with_mlp_of
from rtdyn.model.fast_products import fast_products
from rtdyn.text.windows import EvaluationSet


@dataclass(frozen=True)
class EarlierLayers:
    """Some layers before the last, on the evaluation set; T positions a window, width d."""

    stream: Tensor
    """float32 (windows, T, d): the residual stream that enters block `first`."""
    first: int
    """The first of the layers."""
    anatomy: Anatomy
    """Of the model, whose blocks from `first` on can be run."""
    layers: Mapping[int, Capture]
    """By layer, ascending: the capture with that layer's MLP in the final one's place. The residual stream stays the
    last, so that what is computed of it is what the layer's neurons do directly, along the residual stream alone."""
    below: Tensor | None = None
    """float32 (windows, T, d): the residual stream that enters the block below the first layer, where attention was
    asked for. Below the first block of all there is none, and it is `stream`."""


def capture_earlier(
    model: Any,
    evaluation: EvaluationSet,
    captured: Capture,
    layers: Sequence[int],
    *,
    mean_over: str = "kept",
    attention: bool = False,
    batch_tokens: int = 4096,
) -> EarlierLayers:
    """Runs the model once more over the windows, without logits.

    captured: of the same model and windows. layers: indices, ascending, each below the last. model, mean_over: as
    `capture` has them; of a LayeredModel the layers from the first on stay in memory, and with attention the one below.
    attention: keep that of the layers and the ones below, but for the model's last two, which `capture` keeps. Memory
    beyond the model: (windows·T, d), and (N, F) for each layer. Attention takes (windows·T, d) more, and (N, heads·T)
    for each layer of it. With a parallel residual it takes (N + windows, d) for each layer. Raises InputError for
    activations that overflow.
    """
    n_windows, length = evaluation.windows.shape
    windows = torch.from_numpy(evaluation.windows.astype(np.int64))
    measured = torch.zeros(n_windows * length, dtype=torch.bool)
    measured[torch.from_numpy(captured.positions.flat)] = True
    measured = measured.view(n_windows, length)
    counted = torch.ones_like(measured) if mean_over == "all" else torch.from_numpy(evaluation.kept)
    batches = torch.arange(n_windows).split(max(1, batch_tokens // length))
    run = by_layers if isinstance(model, LayeredModel) else in_memory
    lowest = max(layers[0] - 1, 0) if attention else layers[0]
    parts, hidden = run(model, [windows[rows] for rows in batches], captured.anatomy.layer + 1 - lowest)
    device, n = captured.residual.device, int(measured.sum())
    entering = {block: Rows((n_windows, length, captured.residual.shape[1]), device) for block in {lowest, layers[0]}}
    collected = {layer: _Layer(len(parts.mlp_outputs[layer].rows), n, device) for layer in layers}
    of_heads = {
        layer: _Heads(parts, layer, own, (n, n_windows, length), device)
        for layer, own in attention_by_layer(layers, captured.anatomy.layer).items()
        if attention
    }
    with torch.no_grad(), fast_products(), _recorded(parts, layers, entering, of_heads.values()) as seen:
        for rows in batches:
            seen.measured = here = measured[rows].to(device)
            next(hidden)
            for block, stream in entering.items():
                stream.add(seen["stream", block])
            for layer, of_layer in collected.items():
                of_layer.add(seen["activations", layer].view(*here.shape, -1), here, counted[rows].to(device))
            for heads in of_heads.values():
                heads.add(seen)
            seen.clear()
    captures = {layer: of_layer.result(captured, parts, layer) for layer, of_layer in collected.items()}
    return EarlierLayers(
        entering[layers[0]].array,
        layers[0],
        parts,
        {layer: of_heads[layer].joined(of_layer) if attention else of_layer for layer, of_layer in captures.items()},
        entering[lowest].array if attention else None,
    )


def attention_by_layer(layers: Sequence[int], final: int) -> dict[int, tuple[int, ...]]:
    """By layer, those of the two that reach it whose attention neither the last layer's capture nor an earlier one has.

    layers: ascending. final: the last layer, whose capture has its own and the one below.
    """
    known, result = {final - 1, final}, {}
    for layer in layers:
        result[layer] = tuple(reaching for reaching in (layer - 1, layer) if reaching >= 0 and reaching not in known)
        known.update(result[layer])
    return result


class _Layer:
    """One layer's activations, batch after batch."""

    def __init__(self, neurons: int, positions: int, device: torch.device) -> None:
        self.activations = Rows((positions, neurons), device)
        self.moments = Moments(neurons, device)
        self.window_sums: list[Tensor] = []
        self.window_n: list[Tensor] = []

    def add(self, activations: Tensor, measured: Tensor, counted: Tensor) -> None:
        """activations (batch, T, F); measured and counted bool (batch, T)."""
        self.activations.add(activations[measured])
        self.moments.add(activations[counted])
        self.window_sums.append((counted[:, None].to(activations.dtype) @ activations)[:, 0].double())
        self.window_n.append(counted.sum(1))

    def result(self, captured: Capture, parts: Anatomy, layer: int) -> Capture:
        moments, counts = self.moments.result(), torch.cat(self.window_n)
        for values in (self.activations.array, moments.variance):
            if not all(map(math.isfinite, values.aminmax())):
                raise OverflowedError(f"the activations of layer {layer} overflow to infinity or NaN")
        return replace(
            captured,
            activations=self.activations.array,
            moments=moments,
            mean_parts=(torch.cat(self.window_sums) - counts[:, None] * moments.mean) / moments.n,
            anatomy=with_mlp_of(parts, layer),
            attention=None,
            stream=None,
            heads=None,
            first_heads=None,
            attention_layers=(),
        )


class _Heads:
    """What reaches one layer's neurons by attention, batch after batch."""

    def __init__(
        self, parts: Anatomy, layer: int, own: tuple[int, ...], size: tuple[int, int, int], device: torch.device
    ) -> None:
        """own: layers whose attention is kept. size: measured positions, windows, and positions of each."""
        n, n_windows, length = size
        self.own, self.ablated = own, max(layer - 1, 0)
        block = parts.every_block[self.ablated]
        self.attention = Rows((n, len(own), block.heads, length), device)
        width = block.heads * block.head_size
        self.heads = Rows((n, width), device) if parts.parallel_residual else None
        self.first_heads = Rows((n_windows, width), device) if parts.parallel_residual else None

    def add(self, seen: Mapping[tuple[str, int], Tensor]) -> None:
        """seen: what `_recorded` has of a batch."""
        if self.own:
            self.attention.add(torch.stack([seen["attention", layer] for layer in self.own], dim=1))
        if self.heads is not None and self.first_heads is not None:
            self.heads.add(seen["heads", self.ablated])
            self.first_heads.add(seen["first heads", self.ablated])

    def joined(self, captured: Capture) -> Capture:
        """The layer's capture, with its attention."""
        return replace(
            captured,
            attention=self.attention.array,
            attention_layers=self.own,
            heads=None if self.heads is None else self.heads.array,
            first_heads=None if self.first_heads is None else self.first_heads.array,
        )


class _Seen(dict[tuple[str, int], Tensor]):
    """What a batch's forward pass has shown, by name and layer."""

    measured: Tensor
    """bool (batch, T): the batch's measured positions, set before its pass."""


@contextmanager
def _recorded(
    parts: Anatomy, layers: Sequence[int], entered: Iterable[int], attention: Iterable[_Heads]
) -> Iterator[_Seen]:
    """Hooks that leave each forward pass's streams, activations, attention and heads in a dictionary, by layer.

    entered: the blocks whose streams are kept. Of attention and heads the measured positions alone are left, so that
    no batch holds (batch, heads, T, T) of every layer.
    """
    seen = _Seen()

    def keep(name: str, layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name, layer] = inputs[0]

        return hook

    def keep_weights(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
            seen["attention", layer] = output[1].transpose(1, 2)[seen.measured]

        return hook

    def keep_heads(layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen["heads", layer], seen["first heads", layer] = inputs[0][seen.measured], inputs[0][:, 0].clone()

        return hook

    handles = [
        *(parts.stack[block].register_forward_pre_hook(keep("stream", block)) for block in entered),
        *(parts.mlp_outputs[layer].module.register_forward_pre_hook(keep("activations", layer)) for layer in layers),
    ]
    for of_heads in attention:
        blocks = parts.every_block
        handles += [blocks[own].attention.register_forward_hook(keep_weights(own)) for own in of_heads.own]
        if of_heads.heads is not None:
            output = blocks[of_heads.ablated].attention_output
            handles.append(output.register_forward_pre_hook(keep_heads(of_heads.ablated)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
