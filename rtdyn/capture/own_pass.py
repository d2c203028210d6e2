"""One window through transformers' own forward pass, from its token ids to its logits: what a capture must agree with.

Copies of the window go through it, together where they are no larger than a capture's batch. One is unchanged. A few
are of one neuron each, whose activation a hook replaces at every position. Where the model runs by layers each module
is filled as the pass comes to it. So each block is passed what transformers passes to that block.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtdyn.capture.by_layers import filled_on_the_way
from rtdyn.capture.layered_model import LayeredModel
from rtdyn.capture.memory_need import BATCH_TOKENS
from rtdyn.model.families import anatomy
from rtdyn.text.positions import MeasuredPositions
from rtdyn.text.windows import EvaluationSet, check_ids

NEURONS = 3
POSITIONS = 32
"""At most, of the window's measured ones: their logits are held for each copy."""


@dataclass(frozen=True)
class OwnPass:
    """What transformers' model gives at n measured positions of one window, with k neurons replaced in turn."""

    family: str
    rows: np.ndarray
    """int64 (n,): which of the measured positions."""
    log_probabilities: Tensor
    """float64 (n, V), nats."""
    largest_logit: float
    """In absolute value, of all copies."""
    neurons: Tensor
    """int64 (k,): those of the final MLP that move the stream most."""
    replaced_by: Tensor
    """float64 (k,): the activation put in place, far enough from the mean to show at a step that has learned nothing.
    The stream moves about as much as all that the MLP writes."""
    delta: Tensor
    """float64 (n, k): what the loss gains by it, nats."""


def own_pass(model: Any, evaluation: EvaluationSet, positions: MeasuredPositions) -> OwnPass:
    """Runs the window with the most measured positions, in 1 + NEURONS copies.

    model: transformers' own, or a LayeredModel that nothing of is filled; nothing of it is filled afterwards. Raises
    InputError for weights that cannot be used and for token ids the model has no row for.
    """
    check_ids(evaluation, model.get_output_embeddings().weight.shape[0])
    window = int(np.bincount(positions.window).argmax())
    rows = np.flatnonzero(positions.window == window)[:POSITIONS]
    whole, running = _callable(model)
    queries = torch.from_numpy(positions.query[rows]).to(model.device)
    ids = torch.from_numpy(evaluation.windows[window].astype(np.int64)).to(model.device)
    chosen = _Replacing(whole, queries, len(ids))
    with torch.no_grad(), running, chosen:
        batches = ids.expand(1 + NEURONS, -1).split(max(1, BATCH_TOKENS // len(ids)))
        logits = torch.cat([whole(copies, use_cache=False, logits_to_keep=queries).logits for copies in batches])
    own, *ablated = (of_copy.double().log_softmax(1) for of_copy in logits)
    target = torch.from_numpy(positions.target[rows]).to(own.device)[:, None]
    gained = [own.gather(1, target) - after.gather(1, target) for after in ablated[: len(chosen.neurons)]]
    return OwnPass(
        family=whole.config.model_type,
        rows=rows,
        log_probabilities=own,
        largest_logit=float(logits.nan_to_num(0.0, 0.0, 0.0).abs().max()),
        neurons=chosen.neurons,
        replaced_by=chosen.values.double(),
        delta=torch.cat(gained, dim=1),
    )


def _callable(model: Any) -> tuple[Any, AbstractContextManager[None]]:
    """What is called with token ids, and what has to be held meanwhile."""
    return (model.skeleton, filled_on_the_way(model)) if isinstance(model, LayeredModel) else (model, nullcontext())


class _Replacing:
    """While held, copy 1 + k of the window runs with the k-th neuron replaced; copy 0 says which those are."""

    neurons: Tensor
    """int64 (k,)."""
    values: Tensor
    """(k,)."""

    def __init__(self, model: Any, queries: Tensor, length: int) -> None:
        self.model, self.queries, self.length = model, queries, length
        self.copies = 0

    def __enter__(self) -> None:
        self.handle = anatomy(self.model).mlp_output.register_forward_pre_hook(self._replace)

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _replace(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        activations = inputs[0].clone().view(-1, self.length, inputs[0].shape[-1])
        if self.copies == 0:
            self._choose(activations[0])
        for copy, k in enumerate(range(self.copies - 1, self.copies + len(activations) - 1)):
            if 0 <= k < len(self.neurons):
                activations[copy, :, self.neurons[k]] = self.values[k]
        self.copies += len(activations)
        return (activations.view_as(inputs[0]), *inputs[1:])

    def _choose(self, activations: Tensor) -> None:
        rows = anatomy(self.model).output_rows
        measured, length = activations[self.queries], rows.norm(dim=1)
        reaches, self.neurons = (measured.std(0, correction=0) * length).topk(min(NEURONS, len(rows)))
        written = (activations @ rows).square().sum(1).mean().sqrt()
        far = torch.where(reaches > 0, written / length[self.neurons], 0.0)
        self.values = measured.mean(0)[self.neurons] + far
