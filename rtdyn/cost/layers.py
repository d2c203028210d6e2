"""What the layers before the last take: first orders of all neurons, and windows that are run again (METHODS §11).

T tokens lie in windows of w; N positions are measured in W windows. There are V logits, F neurons and the width d. A
block's matrices have P numbers, A of them its attention's, and b blocks lie above a layer, b₀ above the first:

    once        T tokens through all blocks of the model, and through the last b₀ + 1, without logits
    first order a backward pass through b₀ − 1 blocks and the last one's keys and values for each of N positions, over
                the r·w positions up to it and those that go with it, of which the matrices cost what they do forward
                and the attention twice as much; 2·N·r·w·d·F for each layer; b₀ + 1 blocks forward for TARGETS of them,
                from weights alone once for all
    exact       b − 1 blocks over the w·m/(m + 1) positions up to the last of m measured ones, on average, whose
                attention reads half of the pairs; the last one's queries, keys and values there, and all of it and a
                share of V·d at the window's measured positions, all of it where logits are capped; for every neuron
                on every window where it is measured, and for the drawn pairs
    direct      the ablation of the layer's neurons, as the last layer's

From weights alone the first block above takes no product for what reads the stream. That is queries, keys and values,
and with a parallel residual the matrix of its neurons too. Of a later last block keys and values are taken alone.

Beside the products, arrays of the width and of pairs of positions are gone through. Their numbers were fitted to
processor seconds of one thread of an Intel Xeon (Cascade Lake). They are of random GPT-NeoX, GPT-2 and Llama models,
96 to 512 wide, with up to three blocks above the layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rtdyn.analyses.earlier_layers.drawn_types import drawn_types
from rtdyn.analyses.earlier_layers.sample import TARGETS, Budget
from rtdyn.capture.memory_need import Sample
from rtdyn.cost.operations import Operations, ablation_operations, total_operations
from rtdyn.model.sizes import ModelShape


@dataclass(frozen=True)
class Passes:
    """How often a block goes through its arrays."""

    hidden: float
    """Of a position's hidden state."""
    scores: float
    """Of a pair of positions in a head, beside its products."""


EAGER = Passes(190, 7)
"""By the model's own attention, which has all pairs of positions; a backward pass takes as much again a target."""
FUSED = Passes(80, 8)
"""By the model's modules and fused attention, in windows that run again."""
PLAIN = Passes(40, 5)
"""From weights alone, fitted to GPT-NeoX's."""
PLAIN_BACK = Passes(90, 4)
"""The same of a backward pass, of a target: fitted to GPT-NeoX's and Llama's."""
LOSS_PASSES = 8
"""Of a rerun's logits."""
WHOLE_SHARE = 0.07
"""Pairs of neuron and position whose losses are taken from all types, in three layers of a model of 135 million
parameters. Half of the neurons led by first order, and half were random."""
KEYS = 0.5
"""Passes of keys and values alone, in units of a block's."""


def layer_operations(
    model: ModelShape, sample: Sample, layers: Sequence[int], memory_bytes: int, budget: Budget
) -> Operations:
    """Of these layers, ascending, each before the last. model: `plain` where windows run again from weights alone."""
    above = [model.layers - 1 - layer for layer in layers]
    windows, seen = sample.tokens / sample.window, _reach(sample) * sample.window
    targets = sample.positions * seen
    back = PLAIN_BACK if model.plain else EAGER
    backward = [
        through_blocks(model, targets * (above[0] - 1), seen, back),
        Operations(float32=4.0 * targets * (above[0] - 1) * seen * model.width),  # both factors have a gradient
        _keys(model, targets, _keys_and_values(model), back),
    ]
    passing, attended = (sample.tokens, sample.window) if model.plain else (targets / TARGETS, seen)
    forward = through_blocks(model, passing * (above[0] + 1), attended, EAGER)
    products = Operations(float32=2.0 * len(layers) * targets * model.width * model.neurons)
    direct = [ablation_operations(model, sample, memory_bytes)] * len(layers)
    pairs = reruns(model.neurons, windows, budget)
    again = [_rerun(model, sample, pairs, b) for b in above]
    once = through_blocks(model, sample.tokens * (model.layers + above[0] + 1), sample.window, EAGER)
    return total_operations([once, forward, *backward, products, *direct, *again])


def _reach(sample: Sample) -> float:
    """The mean share of a window that lies before the last of the targets that go together."""
    groups = max(1, math.ceil(sample.positions * sample.window / sample.tokens / TARGETS))
    return (groups + 1) / (2 * groups)


def reruns(neurons: int, windows: float, budget: Budget) -> float:
    """Expected pairs of neuron and window: of measured neurons all, of others the drawn ones."""
    left = max(0, neurons - budget.top) * max(0, neurons - budget.uniform) / neurons
    return (neurons - left) * windows + left * min(budget.reruns, windows)


def _attention(model: ModelShape) -> float:
    """Numbers in the matrices of one block's attention."""
    return model.matrices / model.layers - (model.inputs + 1) * model.width * model.neurons


def _queries(model: ModelShape) -> float:
    """Those of them that give queries, as many as the output takes."""
    return float(model.width * model.heads * model.head_size)


def _keys_and_values(model: ModelShape) -> float:
    """Those of them that give keys and values."""
    return _attention(model) - 2 * _queries(model)


def through_blocks(
    model: ModelShape, positions: float, attended: float, passes: Passes, left_out: float = 0.0
) -> Operations:
    """Of so many positions through a block each, where each attends to `attended`; left_out: numbers of its matrices
    that it does without."""
    numbers = model.matrices / model.layers - left_out
    return Operations(
        float32=positions * (2.0 * numbers + 4.0 * attended * model.width),
        passed=positions * (passes.hidden * model.width + passes.scores * model.heads * attended),
    )


def _keys(model: ModelShape, positions: float, numbers: float, passes: Passes) -> Operations:
    """Of so many positions that give keys and values alone, by so many numbers of the attention's matrices."""
    return Operations(float32=2.0 * positions * numbers, passed=KEYS * positions * passes.hidden * model.width)


def _rerun(model: ModelShape, sample: Sample, pairs: float, blocks: int) -> Operations:
    """The windows that run again through so many blocks, to their losses."""
    of_window = sample.positions * sample.window / sample.tokens
    before, measured = pairs * sample.window * of_window / (of_window + 1), pairs * of_window
    drawn = 0.0 if model.capped else drawn_types(model.logits)
    terms = measured * (drawn + WHOLE_SHARE * model.logits if drawn else model.logits)
    logits = Operations(float32=2.0 * terms * model.width, passed=LOSS_PASSES * terms)
    through = _by_weights if model.plain else _by_modules
    return total_operations([logits, *through(model, before, measured, sample.window / 2, blocks)])


def _by_modules(
    model: ModelShape, before: float, measured: float, attended: float, blocks: int
) -> tuple[Operations, ...]:
    """Of windows of so many positions, of which so many are measured, up to what leaves the last block."""
    return (
        through_blocks(model, before * (blocks - 1), attended, FUSED),
        _keys(model, before, _queries(model) + _keys_and_values(model), FUSED),
        through_blocks(model, measured, attended, FUSED),
    )


def _by_weights(
    model: ModelShape, before: float, measured: float, attended: float, blocks: int
) -> tuple[Operations, ...]:
    """The same, where the first block takes no product for what it reads."""
    keys = _keys_and_values(model)
    of_mlp = model.inputs * model.width * model.neurons if model.parallel_residual else 0
    read = _queries(model) + keys + of_mlp
    if blocks == 1:
        return _keys(model, before, 0.0, PLAIN), through_blocks(model, measured, attended, PLAIN, read)
    return (
        through_blocks(model, before, attended, PLAIN, read),
        through_blocks(model, before * (blocks - 2), attended, PLAIN),
        _keys(model, before, keys, PLAIN),
        through_blocks(model, measured, attended, PLAIN),
    )
