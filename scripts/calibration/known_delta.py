"""Influence on parts of a text whose every Δ is known, so that a model is run once for many replicates."""

from __future__ import annotations

import numpy as np
import torch

from rtdyn.analyses.influence.ablation import TOLERANCE, ClassInfluence, PseudoInfluence, class_influence
from rtdyn.analyses.influence.certified import delta_blocks
from rtdyn.capture.forward_pass import Capture
from rtdyn.text.positions import MeasuredPositions


def all_deltas(captured: Capture) -> np.ndarray:
    """float32 (N, F): Δ of every measured position and neuron, nats."""
    members = [torch.from_numpy(captured.positions.members(c.name)) for c in captured.positions.classes]
    delta = np.zeros(captured.activations.shape, dtype=np.float32)
    for block in delta_blocks(captured, members, TOLERANCE, 2**30):
        delta[block.rows, block.neurons] = block.delta.numpy()
    return delta


def influence_on(delta: np.ndarray, positions: MeasuredPositions, name: str, cluster: np.ndarray) -> ClassInfluence:
    """A class's influence from Δ (n, F) of the positions."""
    member = positions.members(name)
    ids, index, counts = np.unique(positions.window[member], return_inverse=True, return_counts=True)
    sums = np.zeros((2, len(ids), delta.shape[1]))
    own = delta[member].astype(np.float64)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(ids)))
    sums[0], sums[1] = (np.add.reduceat(v[order], starts, axis=0) for v in (own, np.abs(own)))
    labels = np.unique(cluster[ids], return_inverse=True)[1]
    t = torch.from_numpy
    nothing = torch.zeros(1, dtype=torch.int64), torch.zeros(1, delta.shape[1]), torch.zeros(1, delta.shape[1])
    zero = torch.zeros(delta.shape[1], dtype=torch.float64)
    return class_influence(t(ids), t(labels), t(counts), t(sums[0]), t(sums[1]), zero, nothing)


def pseudo_influence_on(delta: np.ndarray, members: np.ndarray, half: np.ndarray) -> PseudoInfluence:
    """Of pseudo-classes members bool (draws, N), from Δ (N, F); half (N,) is 0 or 1."""
    weights = members[None] & (half == np.arange(2)[:, None])[:, None]
    signed = torch.from_numpy(delta).double()
    by_class = torch.from_numpy(weights).double()
    return PseudoInfluence(by_class.sum(2).long(), by_class @ signed, by_class @ signed.abs())
