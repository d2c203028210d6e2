"""Sums over the edges and the pairs inside sets of neurons, and between them and the rest of the layer (METHODS §6).

What all sets need of the layer is computed once. Sums inside are loops over pairs for small sets on the CPU. Else they
are products of the sets' indicators with blocks of the correlation matrix, on its device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups.graph import THRESHOLD, checked_sets, least_weight
from rtdyn.analyses.kernels import graphs
from rtdyn.analyses.statistics import as_numpy

BLOCK = 1024
"""Rows of the correlation matrix whose weights are made at a time."""
LOOP_NEURONS = 512
"""Up to so many a set's sums inside are cheaper in a loop, on one CPU thread."""
BLOCKS_COST, SET_COST = 2.0, 0.011
"""What a product takes for the layer, and for each set, in units of a loop over the pairs of as many neurons."""


@dataclass(frozen=True)
class Layer:
    """The graph of all F neurons, with edges of |r| ≥ threshold."""

    r: Tensor
    """float32 (F, F), of `correlation`."""
    threshold: float | None
    """None: edges of any |r| that is not 0."""
    totals: np.ndarray
    """float64 (3, F): each neuron's strength, number of edges, and sum of r with all others."""
    varying: np.ndarray
    """bool (F,)."""


@dataclass(frozen=True)
class SetSums:
    """Sums over sets, s of them, in a layer."""

    inside: np.ndarray
    """float64 (3, s): over each set's pairs, weight of edges, their number, and the sum of r."""
    totals: np.ndarray
    """float64 (3, s): over each set's neurons, of `Layer.totals`."""
    nodes: np.ndarray
    """int64 (s,): neurons that vary."""
    strength: float
    """Of the whole layer."""
    varying: int
    """Neurons of the layer that vary."""


def layer(r: Tensor, threshold: float | None = THRESHOLD) -> Layer:
    """The graph of correlations r (F, F)."""
    least = least_weight(threshold)
    if r.device.type == "cpu":
        totals = graphs.totals(r.numpy(), least)
    else:
        totals = np.concatenate(
            [as_numpy(torch.stack([v.double().sum(1) for v in parts])) for _, parts in weight_blocks(r, least)], axis=1
        )
    return Layer(r, threshold, totals, ~as_numpy(r.diagonal().isnan()))


def set_sums(layer: Layer, sets: np.ndarray) -> SetSums:
    """Of each set of sets (s, n). Raises ValueError for sets that are no sets of neurons."""
    sets = checked_sets(layer.r, sets)
    return SetSums(
        inside(layer.r, sets, least_weight(layer.threshold)),
        layer.totals[:, sets].sum(2),
        layer.varying[sets].sum(1),
        float(layer.totals[0].sum()),
        int(layer.varying.sum()),
    )


def edge_counts(r: Tensor, sets: np.ndarray, *, threshold: float | None = THRESHOLD) -> np.ndarray:
    """int64 (s,): edges inside each set of sets (s, n), neurons of r (F, F)."""
    return inside(r, checked_sets(r, sets), least_weight(threshold))[1].astype(np.int64)


def inside(r: Tensor, sets: np.ndarray, least: float) -> np.ndarray:
    """float64 (3, s): weight of edges, their number and the sum of r over each set's pairs.

    r: (F, F). sets: int64 (s, n), checked. least: the smallest |r| of an edge.
    """
    count, neurons = sets.shape
    by_loop = neurons <= LOOP_NEURONS or count * neurons**2 <= (BLOCKS_COST + SET_COST * count) * len(r) ** 2
    if r.device.type == "cpu" and by_loop:
        return np.asarray(graphs.inside(r.numpy(), sets, least))
    return inside_by_product(r, sets, least)


def inside_by_product(r: Tensor, sets: np.ndarray, least: float) -> np.ndarray:
    """What `inside` gives for r (F, F) and sets (s, n): in float32 for a neuron and a set, these summed in float64.

    Takes 4·s·F bytes and, BLOCK rows at a time, a few times 4·BLOCK·F.
    """
    members = torch.zeros(len(sets), len(r), device=r.device)
    members.scatter_(1, torch.from_numpy(sets).to(r.device), 1.0)
    sums = torch.zeros(3, len(sets), dtype=torch.float64, device=r.device)
    for rows, parts in weight_blocks(r, least, later=True):
        for total, values in zip(sums, parts, strict=True):
            total += (members[:, rows.start :] @ values.T * members[:, rows]).double().sum(1)
    return as_numpy(sums)


def weight_blocks(
    r: Tensor, least: float, *, later: bool = False
) -> Iterator[tuple[slice, tuple[Tensor, Tensor, Tensor]]]:
    """Some rows of r (F, F) at a time, and their weights, edges and r, float32 (rows, F).

    All are 0 for undefined pairs and for a neuron with itself. least: the smallest |r| of an edge. later: with later
    neurons only, (rows, F − start) from the first of the rows on, and 0 for earlier ones there.
    """
    for start in range(0, len(r), BLOCK):
        rows = slice(start, min(start + BLOCK, len(r)))
        values = r[rows, start if later else 0 :].nan_to_num(nan=0.0)
        if later:
            values.triu_(1)
        else:
            values.diagonal(start).zero_()
        weights = values.abs()
        # the least of no threshold is too small for float32
        edges = (weights >= least if least >= torch.finfo(weights.dtype).tiny else weights > 0).float()
        yield rows, (weights.mul_(edges), edges, values)
