"""What the layers before the last take: first orders of all neurons, and windows that are run again (METHODS §11).

T tokens lie in windows of w; N positions are measured in W windows. There are V logits, F neurons and the width d. A
block's matrices have P numbers, and b blocks lie above a layer, b₀ above the first:

    once        2T blocks of the whole model, without logits
    first order a backward pass through b₀ − 1 blocks and the last one's keys and values for each of N positions, over
                the r·w positions up to it and those that go with it, of which the matrices cost what they do forward
                and the attention twice as much; 2·N·r·w·d·F for each layer; b₀ blocks forward for TARGETS of them
    exact       b − 1 blocks over the w·m/(m + 1) positions up to the last of m measured ones, on average, whose
                attention reads half of the pairs; the last one's keys and values there, and the rest of it and a
                share of V·d at the window's measured positions, all of it where logits are capped; for every neuron
                on every window where it is measured, and for the drawn pairs
    direct      the ablation of the layer's neurons, as the last layer's
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rtdyn.analyses.earlier_layers.drawn_types import drawn_types
from rtdyn.analyses.earlier_layers.sample import TARGETS, Budget
from rtdyn.capture.memory_need import Sample
from rtdyn.cost.operations import (
    HIDDEN_PASSES,
    LOSS_PASSES,
    SCORE_PASSES,
    Operations,
    ablation_operations,
    total_operations,
)
from rtdyn.model.sizes import ModelShape

BACKWARD = 2.0
"""Attention and passes of a backward pass, in units of the forward pass: both factors of each product have a gradient,
but weights have none."""

WHOLE_SHARE = 0.3
"""Pairs of neuron and position whose losses are taken from all types. It was 52 % for neurons that write much and 7 %
for random ones, in two layers of a model of 135 million parameters."""

KEYS = 0.25
"""Queries, keys and values, in units of a block's matrices and passes: 3d² of 12d²."""


def layer_operations(
    model: ModelShape, sample: Sample, layers: Sequence[int], memory_bytes: int, budget: Budget
) -> Operations:
    """Of these layers, ascending, each before the last."""
    above = [model.layers - 1 - layer for layer in layers]
    windows = sample.tokens / sample.window
    targets = sample.positions * sample.window * _reach(sample)
    matrices, attention = blocks_operations(model, sample, targets * (above[0] - 1))
    keys, _ = blocks_operations(model, sample, targets * KEYS)
    backward = Operations(
        float32=matrices.float32 + keys.float32 + BACKWARD * attention.float32,
        passed=BACKWARD * (matrices.passed + keys.passed + attention.passed),
    )
    forward = blocks_operations(model, sample, targets / TARGETS * above[0])
    products = Operations(float32=2.0 * len(layers) * targets * model.width * model.neurons)
    direct = [ablation_operations(model, sample, memory_bytes)] * len(layers)
    pairs = reruns(model.neurons, windows, budget)
    again = [_rerun(model, sample, pairs, b) for b in above]
    once = blocks_operations(model, sample, sample.tokens * (model.layers + 2 * (above[0] + 1)))
    return total_operations([*once, *forward, backward, products, *direct, *again])


def _reach(sample: Sample) -> float:
    """The mean share of a window that lies before the last of the targets that go together."""
    groups = max(1, math.ceil(sample.positions * sample.window / sample.tokens / TARGETS))
    return (groups + 1) / (2 * groups)


def reruns(neurons: int, windows: float, budget: Budget) -> float:
    """Expected pairs of neuron and window: of measured neurons all, of others the drawn ones."""
    left = max(0, neurons - budget.top) * max(0, neurons - budget.uniform) / neurons
    return (neurons - left) * windows + left * min(budget.reruns, windows)


def blocks_operations(model: ModelShape, sample: Sample, positions: float) -> tuple[Operations, Operations]:
    """Of so many positions through a block each: its matrices, then its attention."""
    hidden, scores = HIDDEN_PASSES * model.width, SCORE_PASSES * model.heads * sample.window
    matrices = 2.0 * model.matrices / model.layers
    return (
        Operations(float32=positions * matrices, passed=positions * hidden),
        Operations(float32=positions * 4.0 * sample.window * model.width, passed=positions * scores),
    )


def _rerun(model: ModelShape, sample: Sample, pairs: float, blocks: int) -> Operations:
    """The windows that run again through so many blocks, to their losses."""
    of_window = sample.positions * sample.window / sample.tokens
    before, measured = pairs * sample.window * of_window / (of_window + 1), pairs * of_window
    keys, _ = blocks_operations(model, sample, before * KEYS)
    matrices, attention = blocks_operations(model, sample, before * (blocks - 1) + measured)
    causal = Operations(float32=attention.float32 / 2, passed=attention.passed / 2)
    drawn = 0.0 if model.capped else drawn_types(model.logits)
    terms = measured * (drawn + WHOLE_SHARE * model.logits if drawn else model.logits)
    logits = Operations(float32=2.0 * terms * model.width, passed=LOSS_PASSES * terms)
    return total_operations([matrices, causal, keys, logits])
