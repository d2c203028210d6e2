"""How much one step is to compute and to hold: closed forms in the sizes of the model and of what it is measured on.

T tokens lie in windows of w, of which N positions are measured. There are V logits, F neurons, D directions, the width
d, and P numbers in the blocks' matrices. A multiplication and an addition are counted apart:

    capture    2PT + 4·L·w·d·T (scores and values of every pair of positions in a window) + 2·T·V·d      float32
    ablation   2(D+1)·N·V·d of the positions and 2·F·V·d of the neurons, once a block of positions        float64
               2D·N·V·d (E_p[m u]) float32, and 2·N·F·V (E_p q²), bfloat16 where the processor has it
               N·F·V·(share summed exactly), a term each
               where logits are capped 4·N·V·d float64, 2D·N·V·d float32 and 2·N·F·V more, and terms of CAPPED_TERMS
    mediation  the ablation twice more of M = 2N/11 positions, but its float64 products of V·d once; its part of the
               positions again with 3·M·K·V terms, for K neurons whose changes of confidence are summed; 2·V·d² + 9·d³
               float64 (the unembedding's singular directions)
               where logits are capped the frozen influence and the changes of confidence take M·F·V and M·K·V terms
               of float64

Beside the products, arrays of the vocabulary's length are gone through, PASSES times for a position and fewer for a
neuron. Where a network is small, that is what takes the time. The counts of passes were fitted to runs of the bundled
suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rtdyn.analyses.influence.block_sizes import sizes_of
from rtdyn.analyses.influence.certified import CAPPED_PAIR_BYTES, PAIR_BYTES
from rtdyn.analyses.top import MIN_TOP, TOP_SHARE
from rtdyn.capture.memory_need import Sample
from rtdyn.model.sizes import ModelShape

EXACT_SHARE, CAPPED_EXACT_SHARE = 0.01, 0.06
"""Pairs summed over the whole vocabulary at the default tolerance, and where logits are capped. Of the first, 0.57 %
were so on SmolLM2, and the rest is for sums over likely types."""
POSITION_PASSES, NEURON_PASSES = 20, 6
"""How often the ablation goes through an array of V numbers for a position, and for a neuron in a block of positions.
The former are logits, p, m and its averages; the latter q, its range and its square."""
PAIR_PASSES = 250
"""What a pair of position and neuron takes beside its sums over the vocabulary: moments, bounds, and being sorted."""
LOSS_PASSES, SCORE_PASSES, HIDDEN_PASSES = 3, 4, 16
"""The same of the capture: for a position's logits, its scores in a head, its hidden state in a layer."""
CONFIDENCE_TERMS = 3
"""Cost of a pair's four sums of changes of confidence, in units of one exact sum."""
CAPPED_TERMS, CAPPED_POSITION_PASSES = 1.6, 20
"""The same of an exact sum where logits are capped, and the passes that a position takes more there."""
FROZEN_TERMS_IN_DOUBLE, CONFIDENCE_TERMS_IN_DOUBLE = 9, 75
"""The same of a pair's frozen loss and of its changes of confidence where logits are capped."""
CONFIDENCE_GROUPS = 6
"""Neurons whose changes of confidence are computed, in units of the group `top`: both halves', with their pools."""
EQUAL_POSITIONS = 2 / 11
"""Share of the positions that mediation looks at: of two classes as many as of `rare`, at the default 10 for each."""
UNEMBEDDING_PASSES = 2
"""The same for the unembedding, made float64 anew for every few positions where it is too large to be held so."""
BYTES_A_NEURON, BYTES_A_STEP = 1000, 60_000
"""Of a step's files and W&B's: what 512 neurons take in a run of the bundled suite with all analyses."""
BYTES_A_DOMAIN_NEURON, BYTES_A_DOMAIN = 33, 4700
"""Of each class and neuron, and of a further text's other rows, in a run of the bundled suite with two of them."""
BYTES_AN_EARLIER_NEURON, BYTES_OF_ITS_CLASS = 27, 100
"""Of a neuron of an earlier layer, and of each class that it has, in a run of the bundled suite with --layers all."""


@dataclass(frozen=True)
class Operations:
    """How many of a stage or a step, by what bounds their speed; they add up."""

    float32: float = 0.0
    """Floating point operations of float32 products."""
    float64: float = 0.0
    narrow: float = 0.0
    """Of products in bfloat16, or float32 where the processor has none."""
    exact: float = 0.0
    """Terms of sums over the vocabulary, each with its exponential."""
    passed: float = 0.0
    """Numbers that arrays are gone through for, an exponential in float64 each."""
    loaded: float = 0.0
    """Parameters made float32 and checked."""

    @property
    def flops(self) -> float:
        """All floating point operations of products."""
        return self.float32 + self.float64 + self.narrow


def total_operations(stages: Iterable[Operations]) -> Operations:
    """All of it together."""
    parts = [vars(stage) for stage in stages]
    return Operations(**{kind: sum(part[kind] for part in parts) for kind in vars(Operations())})


def domain_operations(model: ModelShape, samples: Sequence[Sample], memory_bytes: int) -> Operations:
    """A capture and an ablation of each further text."""
    return total_operations(
        operations
        for sample in samples
        for operations in (capture_operations(model, sample), ablation_operations(model, sample, memory_bytes))
    )


def load_operations(model: ModelShape) -> Operations:
    """A checkpoint's weights, read and made float32."""
    return Operations(loaded=model.parameters)


def capture_operations(model: ModelShape, sample: Sample) -> Operations:
    """One forward pass, with the loss at every position."""
    attention = 4 * model.layers * sample.window * model.width
    unembedding = 2 * model.logits * model.width
    hidden, scores = HIDDEN_PASSES * model.width, SCORE_PASSES * model.heads * sample.window
    passed = sample.tokens * (LOSS_PASSES * model.logits + model.layers * (hidden + scores))
    return Operations(float32=sample.tokens * (2.0 * model.matrices + attention + unembedding), passed=passed)


def ablation_operations(model: ModelShape, sample: Sample, memory_bytes: int) -> Operations:
    """The influence of every neuron at every measured position."""
    n, f, v, d, directions = sample.positions, model.neurons, model.logits, model.width, model.directions
    pair = CAPPED_PAIR_BYTES if model.capped else PAIR_BYTES
    sizes = sizes_of(n, f, v, d, directions, model.capped, memory_bytes, pair)
    blocks = -(-n // sizes.positions)
    again = 0 if sizes.held else -(-n // sizes.softmax_rows) + blocks * -(-f // sizes.neurons)
    capped = Operations(
        float32=2.0 * directions * n * v * d,
        float64=4.0 * n * v * d + 4.0 * n * f * d,
        narrow=2.0 * n * f * v,
        exact=(CAPPED_TERMS * CAPPED_EXACT_SHARE - EXACT_SHARE) * n * f * v,
        passed=float(CAPPED_POSITION_PASSES * n * v),
    )
    linear = Operations(
        float32=2.0 * directions * n * v * d,
        float64=2.0 * (directions + 1) * n * v * d + 2.0 * blocks * f * v * d + 12.0 * n * f * d,
        narrow=2.0 * n * f * v,
        exact=EXACT_SHARE * n * f * v,
        passed=float(
            POSITION_PASSES * n * v
            + NEURON_PASSES * blocks * f * v
            + UNEMBEDDING_PASSES * again * v * d
            + PAIR_PASSES * n * f
        ),
    )
    return total_operations([linear, capped]) if model.capped else linear


def mediation_operations(model: ModelShape, sample: Sample, memory_bytes: int, layers: int = 1) -> Operations:
    """The influence with and without the unigram direction frozen, changes of confidence, and the null space.

    layers: how many it is of; the unembedding's singular directions are theirs together.
    """
    v, d, directions = model.logits, model.width, model.directions
    neurons = min(model.neurons, CONFIDENCE_GROUPS * max(MIN_TOP, int(TOP_SHARE * model.neurons)))
    equal = max(1, round(EQUAL_POSITIONS * sample.positions))
    frozen = ablation_operations(model, replace(sample, positions=equal), memory_bytes // 2)
    # neurons and positions are multiplied with the unembedding once for both
    whole = replace(frozen, float64=frozen.float64 - 2.0 * (model.neurons + (directions + 1) * equal) * v * d)
    if model.capped:
        whole = Operations(exact=float(FROZEN_TERMS_IN_DOUBLE * equal * model.neurons * v))
    terms = CONFIDENCE_TERMS_IN_DOUBLE if model.capped else CONFIDENCE_TERMS
    confidence = Operations(
        float32=2.0 * directions * equal * v * d,
        float64=2.0 * (directions + 1) * equal * v * d + 2.0 * neurons * v * d,
        exact=float(terms * equal * neurons * v),
        passed=float(POSITION_PASSES * equal * v),
    )
    singular = Operations(float64=2.0 * v * d**2 + 9.0 * d**3)
    return total_operations([*[frozen, whole, confidence] * layers, singular])


def run_bytes(
    model: ModelShape, steps: int, analyses: Sequence[str], domains: int = 0, classes: int = 2, earlier: int = 0
) -> int:
    """The run directory on the disk, estimated.

    domains: further texts, each measured on so many classes. earlier: layers before the last, on as many.
    """
    if "ablation" not in analyses:
        return steps * BYTES_A_STEP
    of_domain = BYTES_A_DOMAIN + BYTES_A_DOMAIN_NEURON * classes * model.neurons
    of_layer = (BYTES_AN_EARLIER_NEURON + BYTES_OF_ITS_CLASS * classes) * model.neurons
    return steps * (BYTES_A_STEP + BYTES_A_NEURON * model.neurons + domains * of_domain + earlier * of_layer)
