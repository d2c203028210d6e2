"""Which pairs of neuron and window are run again, and which neurons on all windows (METHODS §11).

Pairs enter the sample each for itself (Poisson sampling). So what one piece of text adds to an estimate does not depend
on what another adds, and standard errors of clusters hold. Of the expected number, half is spread evenly, half in
proportion to the first-order influence. Weights of 1/probability make sums over the sample unbiased (Horvitz & Thompson
1952), whatever the first order is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.top import top_size

RERUNS = 1.0
"""Expected windows that a neuron is run again on beside, mean over neurons."""
TARGETS = 8
"""Targets of one backward pass for the first order: more make a processor no faster, and it reaches to the last."""


@dataclass(frozen=True)
class Budget:
    """How much of a layer is run again."""

    top: int
    """Neurons that are measured on all windows: the most influential by first order."""
    uniform: int
    """The same, drawn at random."""
    reruns: float
    """Expected windows that a neuron is run again on, mean over neurons."""


def budget_of(exact_neurons: int, neurons: int) -> Budget:
    """Of a layer of so many neurons, where `exact_neurons` random ones are measured on all windows."""
    return Budget(max(exact_neurons, top_size(neurons)), exact_neurons, RERUNS)


@dataclass(frozen=True)
class Sample:
    """What of a layer's F neurons is run again on which of W windows."""

    top: np.ndarray
    """int64 (k,): the most influential by first order, measured on all windows."""
    uniform: np.ndarray
    """int64 (k,), ascending: a simple random sample of all neurons, measured on all windows."""
    probability: np.ndarray
    """float64 (W, F): of each pair to be drawn."""
    drawn: np.ndarray
    """bool (W, F)."""

    @property
    def measured(self) -> np.ndarray:
        """bool (F,): measured on all windows."""
        result = np.zeros(self.drawn.shape[1], dtype=bool)
        result[self.top] = result[self.uniform] = True
        return result

    @property
    def run_again(self) -> np.ndarray:
        """bool (W, F)."""
        return self.drawn | self.measured


def draw_sample(size: np.ndarray, ranked_by: np.ndarray, budget: Budget, rng: np.random.Generator) -> Sample:
    """Draws what is run again.

    size: float64 (W, F), Σ |Δ¹| of each window and neuron. ranked_by: float64 (F,), the first-order influence.
    """
    neurons = len(ranked_by)
    probability = inclusion(size, budget.reruns * neurons)
    top = np.argsort(-ranked_by, kind="stable")[: budget.top]
    uniform = np.sort(rng.choice(neurons, min(budget.uniform, neurons), replace=False))
    return Sample(top, uniform, probability, rng.random(size.shape) < probability)


def inclusion(size: np.ndarray, expected: float) -> np.ndarray:
    """float64 (W, F): probabilities that sum to `expected` where none exceeds 1: half even, half as `size` (W, F)."""
    even = np.full(size.shape, 1 / size.size)
    total = size.sum()
    share = even if total == 0 else (even + size / total) / 2
    return np.minimum(1.0, expected * share)
