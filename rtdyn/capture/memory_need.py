"""Memory that one step needs, and whether its model has to be run by layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtdyn.model.sizes import ModelShape
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.pseudo_classes import DRAWS

BATCH_TOKENS = 4096
"""Tokens of the capture's batch."""
LOGIT_CHUNK_BYTES = 2**27
"""Of the capture's logits, and as much of their logarithmic probabilities."""
FLOAT64_OF_A_PAIR = 20
"""Numbers that an earlier layer keeps of each window and neuron, of two classes."""
FLOAT64_OF_A_NEURON = 4 * DRAWS
"""Numbers that it keeps of each neuron, of pseudo-classes: sums of Δ and of |Δ| over each half of the windows."""


@dataclass(frozen=True)
class Sample:
    """What every step is measured on."""

    tokens: int
    window: int
    positions: int
    """N, measured."""
    assumed: str | None
    """Why these are no counts; None if they are."""


def sample_of(evaluation: Evaluation) -> Sample:
    """What is measured on a text that is here."""
    windows = evaluation.text.windows
    return Sample(int(windows.size), windows.shape[1], len(evaluation.positions.flat), None)


@dataclass(frozen=True)
class Memory:
    """Bytes that a step takes, by what for."""

    weights: int
    """float32: all, or of a model that runs layer by layer the most at one time."""
    capture: int
    batch: int
    """Of one batch's forward pass."""
    blocks: int
    """At most, by --memory-gib; hidden states of a model that runs layer by layer among them."""

    @property
    def total(self) -> int:
        """All of it: at most so much beside the interpreter and its libraries."""
        return self.weights + self.capture + self.batch + self.blocks


def memory(
    model: ModelShape,
    sample: Sample,
    memory_bytes: int,
    *,
    routing: bool,
    layered: bool,
    earlier_layers: Sequence[int] = (),
) -> Memory:
    """What a step holds at most. routing: attention is kept too. earlier_layers: those measured beside the last."""
    n, d, w = sample.positions, model.width, sample.window
    kept = n * (d + model.neurons) + (n * 2 * model.heads * w + sample.tokens * d if routing else 0)
    if routing and model.parallel_residual:
        kept += (n + sample.tokens // w) * d  # the heads' outputs, which are as wide as the stream there
    if earlier_layers:
        # in float32 numbers
        sums = 2 * model.neurons * (FLOAT64_OF_A_PAIR * sample.tokens // w + FLOAT64_OF_A_NEURON)
        kept += sample.tokens * d + len(earlier_layers) * (n * model.neurons + sums)
    if earlier_layers and routing:
        kept += _attention_of(model, sample, earlier_layers)
    tokens = min(sample.tokens, max(BATCH_TOKENS, w))
    # scores of a layer before and after their softmax, and with routing those kept of the layer before
    scores = (3 if routing else 2) * model.heads * w
    # activations of every layer are kept until the batch has passed
    batch = tokens * (4 * d + (2 + len(earlier_layers)) * model.neurons + scores)
    first = min(earlier_layers, default=model.layers)
    blocks = max(2 if routing else 1, model.layers - (max(first - 1, 0) if routing and earlier_layers else first))
    stay = blocks * model.block + model.logits * d
    weights = max(model.embedding, model.block, stay) if layered else model.parameters
    return Memory(4 * weights, 4 * kept, 4 * batch + 2 * LOGIT_CHUNK_BYTES, memory_bytes)


def _attention_of(model: ModelShape, sample: Sample, layers: Sequence[int]) -> int:
    """Numbers that routing keeps of earlier layers: attention, streams of the layers below, and the heads' outputs."""
    n, final = sample.positions, model.layers - 1
    of_layers = len({reaching for layer in layers for reaching in (layer - 1, layer) if 0 <= reaching < final - 1})
    heads = len(layers) * (n + sample.tokens // sample.window) * model.width if model.parallel_residual else 0
    streams = 1 if min(layers) == 0 else 2  # what enters the layer below the first, unless there is none, and a copy
    return of_layers * n * model.heads * sample.window + streams * sample.tokens * model.width + heads


def runs_by_layers(
    choice: str,
    model: ModelShape,
    sample: Sample,
    memory_bytes: int,
    *,
    routing: bool,
    room: int,
    earlier_layers: Sequence[int] = (),
) -> bool:
    """What --stream-layers means for a model: `always`, `never`, or `auto`, where a step held whole exceeds `room`."""
    whole = memory(model, sample, memory_bytes, routing=routing, layered=False, earlier_layers=earlier_layers).total
    return {"always": True, "never": False, "auto": whole > room}[choice]
