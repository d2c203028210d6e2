"""A null made for correlations: activations of each neuron permuted within windows (METHODS §11; arXiv:2311.09536).

A rewired graph keeps degrees, but is no graph of correlations. Where two neurons correlate with a third, they correlate
with each other. So any graph of correlations has more communities than rewired ones. Each neuron's activations are
permuted for itself, inside each window. That keeps their distribution and what differs between windows. It takes away
only that neurons are active at the same positions. Graphs are made of permuted activations as the group's own was, with
as many edges, the strongest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups.communities import RESTARTS, louvain
from rtdyn.analyses.groups.correlations import correlation, standardised
from rtdyn.analyses.groups.graph import graph_of
from rtdyn.analyses.statistics import Comparison, as_numpy, compare
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

PERMUTATIONS = 99
"""Draws, enough for p = 0.04 after Bonferroni's correction over two halves."""


def beside_permuted(
    activations: Tensor, window: np.ndarray, threshold: float | None, *, draws: int = PERMUTATIONS,
    restarts: int = RESTARTS, seed: int = 0, permuted: Sequence[Tensor] | None = None,
) -> Comparison | Undefined:  # fmt: skip
    """Louvain's Q of a group's own graph among those of graphs of permuted activations, or why there is none.

    activations: (N, n), of the group's neurons alone. window: int (N,), each position's. threshold: the least |r| of
    an edge of the group's graph, None for any. permuted: `permuted_correlations` of these, where they are made.
    """
    everyone = np.arange(activations.shape[1])
    graph = graph_of(correlation(activations), everyone, threshold, None)
    if isinstance(graph, Undefined):
        return graph
    value = louvain(graph, restarts, stream(seed, "communities"))[0]
    rng, null = stream(seed, "permuted activations", "orders"), np.full(draws, np.nan)
    drawn = permuted_correlations(activations, window, draws=draws, seed=seed) if permuted is None else permuted
    for draw, r in enumerate(drawn):
        other = graph_of(r, everyone, None, graph.edges)
        if not isinstance(other, Undefined):
            null[draw] = louvain(other, restarts, rng)[0]
    return compare(value, null)


def permuted_correlations(
    activations: Tensor, window: np.ndarray, *, draws: int = PERMUTATIONS, seed: int = 0
) -> Sequence[Tensor]:
    """float32 (n, n) of each of the draws, on the CPU: `correlation` of the activations (N, n) permuted within windows.

    window: int (N,), each position's.
    """
    rng, order = stream(seed, "permuted activations"), np.argsort(window, kind="stable")
    z, live = standardised(activations)
    values, sorted_window = as_numpy(z)[order], window[order]
    values[:, ~live] = np.nan
    drawn = []
    for _ in range(draws):
        # means and deviations are those of every order
        columns = torch.from_numpy(permuted_within(values, sorted_window, rng))
        product = columns.T @ columns / len(columns)
        r = ((product + product.T) / 2).clamp_(-1, 1).float()
        r.diagonal().copy_(torch.where(r.diagonal().isnan(), torch.nan, 1.0))
        drawn.append(r)
    return drawn


def permuted_within(values: np.ndarray, window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """values (N, n), each column in another random order inside each run of equal windows; window: (N,), ascending."""
    # one sort of window + a random fraction leaves every value in the rows of its own window
    _, place = np.unique(window, return_inverse=True)
    return np.take_along_axis(values, np.argsort(place[:, None] + rng.random(values.shape), axis=0), axis=0)
