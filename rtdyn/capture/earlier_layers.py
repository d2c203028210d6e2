"""What is kept of layers before the last: the stream that enters the first of them, and each one's activations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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


def capture_earlier(
    model: Any,
    evaluation: EvaluationSet,
    captured: Capture,
    layers: Sequence[int],
    *,
    mean_over: str = "kept",
    batch_tokens: int = 4096,
) -> EarlierLayers:
    """Runs the model once more over the windows, without logits.

    captured: of the same model and windows. layers: indices, ascending, each below the last. model, mean_over: as
    `capture` has them; of a LayeredModel the layers from the first on stay in memory. Memory beyond the model:
    (windows·T, d), and (N, F) for each layer. Raises InputError for activations that overflow.
    """
    n_windows, length = evaluation.windows.shape
    windows = torch.from_numpy(evaluation.windows.astype(np.int64))
    measured = torch.zeros(n_windows * length, dtype=torch.bool)
    measured[torch.from_numpy(captured.positions.flat)] = True
    measured = measured.view(n_windows, length)
    counted = torch.ones_like(measured) if mean_over == "all" else torch.from_numpy(evaluation.kept)
    batches = torch.arange(n_windows).split(max(1, batch_tokens // length))
    run = by_layers if isinstance(model, LayeredModel) else in_memory
    parts, hidden = run(model, [windows[rows] for rows in batches], captured.anatomy.layer + 1 - layers[0])
    device = captured.residual.device
    stream = Rows((n_windows, length, captured.residual.shape[1]), device)
    collected = {layer: _Layer(len(parts.mlp_outputs[layer].rows), int(measured.sum()), device) for layer in layers}
    with torch.no_grad(), fast_products(), _recorded(parts, layers) as seen:
        for rows, _ in zip(batches, hidden, strict=True):
            stream.add(seen["stream"])
            for layer, of_layer in collected.items():
                here = measured[rows].to(device)
                of_layer.add(seen[layer].view(*here.shape, -1), here, counted[rows].to(device))
            seen.clear()
    return EarlierLayers(
        stream.array,
        layers[0],
        parts,
        {layer: of_layer.result(captured, parts, layer) for layer, of_layer in collected.items()},
    )


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
        )


@contextmanager
def _recorded(parts: Anatomy, layers: Sequence[int]) -> Iterator[dict[int | str, Tensor]]:
    """Hooks that leave each forward pass's stream and activations in a dictionary."""
    seen: dict[int | str, Tensor] = {}

    def keep(name: int | str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0]

        return hook

    handles = [
        parts.stack[layers[0]].register_forward_pre_hook(keep("stream")),
        *(parts.mlp_outputs[layer].module.register_forward_pre_hook(keep(layer)) for layer in layers),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
