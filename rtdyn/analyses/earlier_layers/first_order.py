"""The change of loss to first order in an ablation, for every neuron of a layer (attribution patching, METHODS §11).

Neuron i is ablated at every position p of the window: its activation a_pi becomes the mean ā_i. That moves the MLP's
output o_p by c_pi·w_i, c_pi = ā_i − a_pi. To first order the loss at position n moves by

    Δ¹_ni = Σ_p c_pi ⟨∂loss_n/∂o_p, w_i⟩,

from one backward pass a target through the model's own modules above, whatever the number of neurons. With ā_i it
moves by Σ_p ⟨∂loss_n/∂o_p, w_i⟩ a unit, which is the slope by which an error of ā_i enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers.continuation import CleanWindow, clean_window
from rtdyn.analyses.earlier_layers.sample import TARGETS
from rtdyn.model.anatomy import Anatomy


@dataclass(frozen=True)
class FirstOrder:
    """Of one window's n measured positions and a layer's F neurons."""

    delta: Tensor
    """(n, F): Δ¹, nats."""
    slope: Tensor
    """(n, F): dΔ¹/dā, nats a unit of activation."""

    @staticmethod
    def unfilled(like: Tensor, positions: int, neurons: int) -> FirstOrder:
        """(n, F) each, for n positions and F neurons, of the type and device of another tensor."""
        return FirstOrder(*(like.new_empty(positions, neurons) for _ in range(2)))


def first_order(
    parts: Anatomy,
    first: int,
    means: Mapping[int, Tensor],
    stream: Tensor,
    query: Tensor,
    target: Tensor,
    memory_bytes: int,
) -> tuple[Tensor, dict[int, FirstOrder]]:
    """The losses (n,) of one window as it is, and Δ¹ by layer.

    first: the block that the stream (T, d) enters. means: float64 (F,) by layer, the ā put in place. query, target:
    int64 (n,). memory_bytes: what the targets of one backward pass may take.
    """
    layers = list(means)
    together = max(1, min(TARGETS, memory_bytes // _target_bytes(parts, first, len(stream))))
    loss = stream.new_empty(len(query))
    found = {layer: FirstOrder.unfilled(stream, len(query), len(mean)) for layer, mean in means.items()}
    for some in query.argsort().split(together):
        seen = stream[: int(query[some].max()) + 1]  # what follows changes nothing before it
        probes = [torch.zeros_like(seen, requires_grad=True) for _ in layers]
        with torch.enable_grad():
            by_layer = dict(zip(layers, probes, strict=True))
            window = clean_window(parts, first, layers, seen, query[some], target[some], by_layer)
        loss[some] = window.loss.detach()
        for layer, gradient in zip(layers, _gradients(window, probes), strict=True):
            rows = parts.mlp_outputs[layer].rows
            change = (means[layer] - window.layers[layer].activations.double()).to(stream.dtype)
            found[layer].delta[some] = _along(change, gradient, rows)
            found[layer].slope[some] = gradient.sum(1) @ rows.T
    return loss, found


def _gradients(window: CleanWindow, probes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """(n, T, d) of each probe (T, d): of the loss at each measured position by it."""
    [of_hidden] = torch.autograd.grad(window.loss.sum(), window.hidden, retain_graph=True)  # each loss has its position
    each = torch.eye(len(of_hidden), dtype=of_hidden.dtype, device=of_hidden.device)[:, :, None] * of_hidden
    return torch.autograd.grad(window.hidden, probes, each, is_grads_batched=True)


def _along(change: Tensor, gradient: Tensor, rows: Tensor) -> Tensor:
    """(k, F): Σ_p c_pi ⟨g_kp, w_i⟩ of change (T, F), gradient (k, T, d) and rows (F, d)."""
    k, length, width = gradient.shape
    summed = (change.T @ gradient.transpose(0, 1).reshape(length, k * width)).view(-1, k, width)
    return torch.einsum("fkd,fd->kf", summed, rows)


def _target_bytes(parts: Anatomy, first: int, length: int) -> int:
    """What a target takes in a backward pass. A block at a time takes about sixteen numbers of each width, six of each
    neuron, four of each pair of positions in a head. Its gradients, and a product of each neuron with each width, come
    on top."""
    neurons, width = parts.output_rows.shape
    heads = parts.blocks[-1].heads
    block = length * (16 * width + 6 * neurons + 4 * heads * length)
    return 4 * (block + (len(parts.stack) - first) * length * width + 2 * neurons * width)
