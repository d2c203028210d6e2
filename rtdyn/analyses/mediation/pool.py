"""A group's null for changes of confidence, which cost too much to compute for every neuron."""

from __future__ import annotations

import numpy as np

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.nulls import permuted_sets
from rtdyn.names import RANDOM

POOL = 2
"""Neurons outside a group, as a multiple of its size, whose changes of confidence are computed for its null."""
POOL_DRAWS = 199


def pooled(group: Group, neurons: int, rng: np.random.Generator) -> Group:
    """The group with random sets from its members and a pool of POOL times as many others of the layer's neurons."""
    members = np.union1d(*group.members)
    outside = np.setdiff1d(np.arange(neurons), members)
    universe = np.sort(np.append(members, rng.permutation(outside)[: POOL * len(members)]))
    places = tuple(np.searchsorted(universe, chosen) for chosen in group.members)
    first, second = permuted_sets((places[0], places[1]), np.zeros(len(universe), dtype=np.int64), POOL_DRAWS, rng)
    return Group(
        group.name, group.members, {RANDOM: (universe[first], universe[second])}, group.own_share, group.overlap
    )
