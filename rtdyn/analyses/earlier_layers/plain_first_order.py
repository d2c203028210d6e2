"""The first order of ablations from weights alone: each loss's gradient, backwards through the last blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers.continuation import losses
from rtdyn.analyses.earlier_layers.first_order import FirstOrder
from rtdyn.analyses.earlier_layers.plain_window import pass_window, target_bytes, window_bytes
from rtdyn.analyses.earlier_layers.sample import TARGETS
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.fast_products import fast_linear
from rtdyn.model.plain_block import PlainBlock


@torch.no_grad()
def plain_first_order(
    parts: Anatomy,
    blocks: Sequence[PlainBlock],
    first: int,
    means: Mapping[int, Tensor],
    stream: Tensor,
    query: Tensor,
    target: Tensor,
    memory_bytes: int,
) -> tuple[Tensor, dict[int, FirstOrder]]:
    """What `first_order` gives, losses (n,) and Δ¹ by layer, of the same arguments. It may run in any thread.

    blocks: every block of the model. memory_bytes: what the window and the targets of one backward pass may take. One
    target goes back whatever it takes.
    """
    window = pass_window(parts, blocks, first, stream, query)
    loss, of_hidden = _losses_and_gradients(parts, window.last.leaves, target)
    changes = {k: (mean - window.before[k].activations.double()).to(stream.dtype) for k, mean in means.items()}
    found = {layer: FirstOrder.unfilled(stream, len(query), len(mean)) for layer, mean in means.items()}
    length = int(query.max()) + 1
    left = memory_bytes - window_bytes(parts, blocks, first, length)
    together = max(1, min(TARGETS, left // target_bytes(parts, blocks, length)))
    for some in query.argsort().split(together):
        seen = int(query[some].max()) + 1
        gradient = window.last.at(some, seen).back_of_each(of_hidden[some])
        for layer in sorted(window.before, reverse=True):
            if layer in means:
                rows = parts.mlp_outputs[layer].rows
                along = fast_linear(gradient, rows).mul_(changes[layer][:seen, None])
                found[layer].delta[some] = along.sum(0)
                found[layer].slope[some] = fast_linear(gradient.sum(0), rows)
            if layer > first:
                gradient = window.before[layer].at(slice(seen), seen).back(gradient)
    return loss, found


def _losses_and_gradients(parts: Anatomy, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) nats where hidden (n, d) leaves the last block, and each loss's gradient (n, d) by its own row."""
    with torch.enable_grad():
        hidden = hidden.requires_grad_()
        loss = losses(parts, hidden[None], target)[0]
        [gradient] = torch.autograd.grad(loss.sum(), hidden)
    return loss.detach(), gradient
