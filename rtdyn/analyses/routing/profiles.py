"""Attention routing: do the heads of the last two layers treat rare tokens in a way of their own (METHODS §7).

Profiles: a class's mean attention to key 0 and to the keys o positions back, one r = Pearson(rare, common) a head,
beside the same r of two disjoint draws of common positions. Gini of a query's attention x over the k keys it may
see, G = 2·Σ_j j·x_(j) / (k·Σ x) − (k + 1)/k with x ascending: 0 where uniform, (k − 1)/k where all on one key.

Head ablation: a head's output becomes zero, its mean over kept positions, or its value at key 0 (`bos`: the pattern
wholly there), and the final MLP's activations a become a'. at="query" is a forward pass that changes the output at
the measured position alone, for each such position a pass of its own. No earlier position can notice, so in the next
layer the position's own query, key and value are new, and all keys and values before it are those of the clean pass.
at="all" changes the output everywhere. Either way only the last two blocks run again, on the model's own code; in
the last block, and wherever the final MLP cannot see its own layer's attention, the two are the same number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.routing.matching import (
    BLOCKS,
    MIN_BLOCKS,
    NULL_DRAWS,
    PROFILE_OFFSETS,
    STRATUM,
    _attention,
    _draw,
    _layers,
    _pools,
)
from rtdyn.analyses.statistics import Comparison, compare
from rtdyn.capture.forward_pass import Capture
from rtdyn.intervals import NORMAL_95
from rtdyn.undefined import Undefined

MIN_QUERIES = 10
"""Queries a class needs in a profile."""


@dataclass(frozen=True)
class Correlation:
    """Pearson r between the classes' profiles, and its null of two common draws of the same size."""

    by_head: np.ndarray
    """float64 (H,); NaN for a head with a constant profile."""
    null_by_head: tuple[Comparison | Undefined, ...]
    mean: float | None
    """Over the heads that have an r; None where none has."""
    sd: float | None
    """Over heads; None for fewer than two."""
    null: Comparison | Undefined
    """Of the mean over heads, or why there is none."""
    low: float | None = None
    """95 % interval of the mean over heads, on Fisher's z, leaving out a block of windows at a time."""
    high: float | None = None


@dataclass(frozen=True)
class Profiles:
    """Attention profiles of one layer's H heads."""

    layer: int
    n: int
    """Queries of each class: half of the stratum's common ones at most, as the null draws them twice."""
    rare: np.ndarray
    """float64 (H, 1 + offsets): mean attention to key 0, then to the query itself, the key before it, and so on."""
    common: np.ndarray
    common_low: np.ndarray
    """Between this and `common_high` lie 95 % of the null's draws of as many common queries, key by key."""
    common_high: np.ndarray
    with_bos: Correlation | None
    without_bos: Correlation | None
    """Key 0 left out."""
    reason: str
    """Why the correlations are None, else empty."""


def attention_profiles(
    captured: Capture,
    rng: np.random.Generator,
    rare: str = "rare",
    common: str = "common",
    stratum: int = STRATUM,
    offsets: int = PROFILE_OFFSETS,
    draws: int = NULL_DRAWS,
) -> tuple[Profiles, ...]:
    """Profiles of both classes by layer, over queries with at least `offsets` keys before them."""
    attention, positions = _attention(captured), captured.positions
    far = positions.query >= offsets
    own, other = (pool[far[pool]] for pool in _pools(positions, rare, common))
    strata = positions.query // stratum
    size = strata.max(initial=0) + 1
    counts = np.minimum(np.bincount(strata[own], minlength=size), np.bincount(strata[other], minlength=size) // 2)
    n, heads = int(counts.sum()), attention.shape[2]
    if n < MIN_QUERIES:
        reason = (
            f"{n} queries of each class at position {offsets} or later with enough common ones, under {MIN_QUERIES}"
        )
        empty = np.full((heads, 1 + offsets), np.nan)
        return tuple(Profiles(layer, n, empty, empty, empty, empty, None, None, reason) for layer in _layers(captured))
    pairs = [*_draw(own, strata, counts, rng), *_draw(other, strata, counts, rng)]
    for _ in range(draws):
        pairs += _draw(other, strata, counts, rng, sets=2)
    blocks = np.array_split(np.unique(positions.window[np.concatenate(pairs[:2])]), BLOCKS)
    left = [[one[~np.isin(positions.window[one], block)] for one in pairs[:2]] for block in blocks if len(block)]
    pairs += [one for pair in left for one in pair] if all(len(one) for pair in left for one in pair) else []
    rows = np.concatenate([own, other])
    place = np.empty(len(positions.flat), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    weights = np.zeros((len(pairs), len(rows)))
    for weight, drawn in zip(weights, pairs, strict=True):
        weight[place[drawn]] = 1 / len(drawn)
    values = _profile_values(attention, positions.query, rows, offsets)
    means = (weights @ values.reshape(len(rows), -1)).reshape(len(pairs) // 2, 2, *values.shape[1:])
    drawn = means[1 : 1 + draws].reshape(-1, *means.shape[2:])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0) if draws else np.full((2, *means.shape[2:]), np.nan)
    r = {first: _pearson(means[:, 0, ..., first:], means[:, 1, ..., first:]) for first in (0, 1)}
    return tuple(
        Profiles(
            layer,
            n,
            means[0, 0, place],
            means[0, 1, place],
            low[place],
            high[place],
            _correlation(r[0][:, place], 1 + draws),
            _correlation(r[1][:, place], 1 + draws),
            "",
        )
        for place, layer in enumerate(_layers(captured))
    )


def _profile_values(attention: Tensor, query: np.ndarray, rows: np.ndarray, offsets: int) -> np.ndarray:
    """float64 (rows, layers, heads, 1 + offsets): attention to key 0, then to key query − o for each offset o."""
    back = query[rows][:, None] - np.arange(offsets)
    keys = torch.from_numpy(np.column_stack([np.zeros(len(rows), dtype=np.int64), back])).to(attention.device)
    chosen = attention[torch.from_numpy(rows).to(attention.device)]
    return chosen.gather(3, keys[:, None, None].expand(*chosen.shape[:3], -1)).double().cpu().numpy()


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Over the last axis; NaN where either is constant to round-off."""
    centred = [v - v.mean(-1, keepdims=True) for v in (x, y)]
    norms = [np.sqrt((c**2).sum(-1)) for c in centred]
    varies = [norm > 1e-12 * np.abs(v).max(-1) for norm, v in zip(norms, (x, y), strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (centred[0] * centred[1]).sum(-1) / (norms[0] * norms[1])
    return np.where(varies[0] & varies[1], r, np.nan)


def _correlation(r: np.ndarray, drawn: int) -> Correlation:
    """r: (drawn + blocks, H), the classes' first, then the null's, then those that leave out a block of windows."""
    by_head, null, left = r[0], r[1:drawn], r[drawn:]
    defined = np.isfinite(by_head)
    against = tuple(
        compare(float(v), of_head) if np.isfinite(v) else Undefined("its attention is the same at every offset")
        for v, of_head in zip(by_head, null.T, strict=True)
    )
    if not defined.any():
        return Correlation(
            by_head, against, None, None, Undefined("every head's attention is the same at every offset")
        )
    mean = float(by_head[defined].mean())
    sd = float(by_head[defined].std(ddof=1)) if defined.sum() > 1 else None
    low, high = _jackknifed(mean, left[:, defined].mean(1))
    return Correlation(by_head, against, mean, sd, compare(mean, null[:, defined].mean(1)), low, high)


def _jackknifed(r: float, left: np.ndarray) -> tuple[float | None, float | None]:
    """95 % interval of a correlation on Fisher's z, from its values (b,) with each block left out; None for too few."""
    blocks = len(left)
    if blocks < MIN_BLOCKS or not np.isfinite(left).all() or max(abs(r), np.abs(left).max()) >= 1:
        return None, None
    z = np.arctanh(left)
    reach = NORMAL_95 * float(np.sqrt(((z - z.mean()) ** 2).sum() * (blocks - 1) / blocks))
    low, high = np.tanh(np.arctanh(r) + np.array([-reach, reach])).tolist()
    return low, high
