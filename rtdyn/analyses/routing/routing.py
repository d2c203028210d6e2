"""Attention routing of one checkpoint: profiles, differences and head ablation (METHODS §7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.routing.differences import Difference, class_differences
from rtdyn.analyses.routing.head_ablation import HeadAblation, ablate_heads
from rtdyn.analyses.routing.matching import (
    BLOCKS,
    MEMORY_BYTES,
    NULL_DRAWS,
    PERMUTATIONS,
    PROFILE_OFFSETS,
    STRATUM,
    MatchedPositions,
    _layers,
    matched_positions,
)
from rtdyn.analyses.routing.profiles import Profiles, attention_profiles
from rtdyn.capture.forward_pass import Capture


@dataclass(frozen=True)
class Routing:
    """Section 7 for one checkpoint; tuples are by layer, L-2 then L-1."""

    layers: tuple[int, ...]
    matched: MatchedPositions
    profiles: tuple[Profiles, ...]
    gini: tuple[Difference, ...]
    """By head, then the mean over heads."""
    bos: tuple[Difference, ...]
    """Attention to key 0, likewise."""
    ablations: tuple[HeadAblation, ...]


def routing(
    captured: Capture,
    groups: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    *,
    rare: str = "rare",
    common: str = "common",
    method: str = "zero",
    at: str = "query",
    part: np.ndarray | None = None,
    stratum: int = STRATUM,
    offsets: int = PROFILE_OFFSETS,
    draws: int = NULL_DRAWS,
    permutations: int = PERMUTATIONS,
    blocks: int = BLOCKS,
    memory_bytes: int = MEMORY_BYTES,
) -> Routing:
    """Profiles, Gini, attention to key 0 and head ablations of the last two layers, rare against common.

    captured: made with attention. groups: neurons of the final MLP by name. part: int64 (windows,), labels from 0 of
    the parts of the windows that the ablations' sums are kept apart for. Raises ValueError for a capture without
    attention or an unknown method, InputError if the blocks' second run does not give the capture's activations.
    """
    matched = matched_positions(captured.positions, rng, rare, common, stratum)
    profiles = attention_profiles(captured, rng, rare, common, stratum, offsets, draws)
    gini, bos = class_differences(captured, matched, rng, stratum, permutations, blocks, memory_bytes)
    ablations = ablate_heads(
        captured,
        {rare: matched.rare, common: matched.common},
        groups,
        method=method,
        at=at,
        part=part,
        memory_bytes=memory_bytes,
    )
    return Routing(_layers(captured), matched, profiles, gini, bos, ablations)
