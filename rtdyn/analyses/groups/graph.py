"""Graphs of neurons: edges join those whose activations are correlated (METHODS §6).

Neurons are nodes; an edge joins two whose activations have |Pearson r| ≥ threshold, with weight w_ij = |r_ij|.
Neurons that never vary have no correlation: they leave the group and the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups.correlations import submatrices
from rtdyn.analyses.kernels import graphs
from rtdyn.analyses.statistics import as_numpy
from rtdyn.counted import counted
from rtdyn.undefined import Undefined

THRESHOLD = 0.3
"""|r| from which two neurons are joined; None, as in the preset `paper-code`, joins all whose r is not 0."""
MIN_NODES = 10
MIN_EDGES = 10


@dataclass(frozen=True)
class Graph:
    """A graph whose nodes all have an edge, numbered by falling strength."""

    between: np.ndarray
    """float64 (nodes, nodes), symmetric: the weight of the edge between every two, 0 where there is none."""

    @property
    def edges(self) -> int:
        """Their number."""
        return int(np.count_nonzero(self.between)) // 2

    @property
    def ends(self) -> np.ndarray:
        """int64 (E, 2), two nodes each, the first before the second, in their order."""
        return np.stack(np.nonzero(np.triu(self.between)), axis=1)

    @property
    def weights(self) -> np.ndarray:
        """float64 (E,), positive, of the edges in the order of `ends`."""
        return self.between[np.triu(self.between) > 0]


def graph_of(r: Tensor, members: np.ndarray, threshold: float | None, edges: int | None) -> Graph | Undefined:
    """The graph of `members` (n,), checked and ascending, in correlations r (F, F), or why it is too small.

    edges: take the strongest `edges` pairs, whatever the threshold (ties at the last by neuron).
    """
    if r.device.type == "cpu":
        source, places = r.numpy(), members
    else:
        source, places = as_numpy(submatrices(r, torch.from_numpy(members).to(r.device))), np.arange(len(members))
    nodes = len(members) - int(np.isnan(source[places, places]).sum())
    if nodes < MIN_NODES:
        return few_vary(nodes)
    weight = graphs.pair_weights(source, places, least_weight(threshold if edges is None else None))
    available = int(np.count_nonzero(weight))
    if edges is not None and available < edges:
        return Undefined(
            f"only {counted(available, 'correlated pair')} of the group's neurons, fewer than the {edges} compared"
        )
    kept = available if edges is None else edges
    if kept < MIN_EDGES:
        return Undefined(f"only {counted(kept, 'edge')} in the group's graph")
    cut = np.partition(weight, len(weight) - kept)[len(weight) - kept]
    return Graph(graphs.linked(source, places, weight, cut, kept - np.count_nonzero(weight > cut)))


def joined(nodes: int, ends: np.ndarray, weights: np.ndarray) -> Graph:
    """The graph of so many nodes with edges between `ends` int (E, 2), of `weights` (E,)."""
    between = np.zeros((nodes, nodes))
    between[ends[:, 0], ends[:, 1]] = between[ends[:, 1], ends[:, 0]] = weights
    return Graph(between)


def checked_sets(r: Tensor, sets: np.ndarray) -> np.ndarray:
    """int64 (s, n): `sets` (s, n) with each row ascending. The compiled loops check no index themselves.

    Raises ValueError if r is not (F, F) or a row holds no distinct neurons of it.
    """
    if r.ndim != 2 or r.shape[0] != r.shape[1]:
        raise ValueError(f"correlations of shape {tuple(r.shape)} are not square")
    if sets.ndim != 2 or not np.issubdtype(sets.dtype, np.integer):
        raise ValueError(f"sets must be whole numbers (s, n), not {sets.dtype} of shape {sets.shape}")
    ordered = np.sort(sets.astype(np.int64), axis=1)
    if ordered.size and (ordered.min() < 0 or ordered.max() >= len(r)):
        raise ValueError(f"sets hold neurons that are not among the {len(r)} of the correlations")
    if (np.diff(ordered, axis=1) == 0).any():
        raise ValueError("a set holds the same neuron twice")
    return ordered


def least_weight(threshold: float | None) -> float:
    """The least |r| of an edge; None: any that is not 0."""
    # an edge of weight 0 is none, so that a threshold of 0 is the same as no threshold
    return max(threshold or 0.0, float(np.nextafter(0.0, 1.0)))


def few_vary(nodes: int) -> Undefined:
    """Too few of a group's neurons vary to be nodes."""
    return Undefined(f"only {nodes} of the group's neurons vary")
