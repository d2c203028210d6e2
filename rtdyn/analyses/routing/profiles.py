"""Attention profiles: do the heads of the last two layers look elsewhere from rare targets (METHODS §7).

A class's mean attention to key 0 and to the keys o positions back, one r = Pearson(rare, common) a head, beside the
same r of two disjoint draws of common positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.routing.blocks import BLOCKS, MIN_BLOCKS
from rtdyn.analyses.routing.last_layers import attention_layers, captured_attention
from rtdyn.analyses.routing.matching import STRATUM, class_pools, draw_by_stratum
from rtdyn.analyses.statistics import Comparison, compare, jackknife_spread
from rtdyn.capture.forward_pass import Capture
from rtdyn.intervals import NORMAL_95
from rtdyn.undefined import Undefined

PROFILE_OFFSETS = 32
"""Keys back from the query, itself included, in a profile; queries with fewer keys before them are left out of it."""
NULL_DRAWS = 199
MIN_QUERIES = 10
"""Queries a class needs in a profile."""


@dataclass(frozen=True)
class Correlation:
    """Pearson r between the classes' profiles, and its null of two common draws of the same size."""

    by_head: np.ndarray
    """float64 (H,); NaN for a head with a constant profile."""
    null_by_head: tuple[Comparison | Undefined, ...]
    """(H,): each head's null, or why there is none."""
    mean: float
    """Over the heads that have an r."""
    sd: float | None
    """Over heads; None for fewer than two."""
    null: Comparison | Undefined
    """Of the mean over heads."""
    low: float | None
    """95 % interval of the mean over heads, on Fisher's z, leaving out a block of windows at a time."""
    high: float | None


@dataclass(frozen=True)
class MeanAttention:
    """Mean attention to key 0, then to the query itself, the key before it, and so on; float64 (H, 1 + offsets)."""

    rare: np.ndarray
    common: np.ndarray
    common_low: np.ndarray
    """Between this and `common_high` lie 95 % of the null's draws of as many common queries, key by key."""
    common_high: np.ndarray


@dataclass(frozen=True)
class Profiles:
    """Attention profiles of one layer's H heads."""

    layer: int
    n: int
    """Queries of each class: half of the stratum's common ones at most, as the null draws them twice."""
    attention: MeanAttention | Undefined
    with_bos: Correlation | Undefined
    without_bos: Correlation | Undefined
    """Key 0 left out."""


def attention_profiles(
    captured: Capture,
    rng: np.random.Generator,
    stratum: int = STRATUM,
    offsets: int = PROFILE_OFFSETS,
    draws: int = NULL_DRAWS,
) -> tuple[Profiles, ...]:
    """Profiles of both classes by layer, over queries with at least `offsets` keys before them.

    Raises ValueError for a capture without attention.
    """
    attention, positions = captured_attention(captured), captured.positions
    layers, far = attention_layers(captured), positions.query >= offsets
    rare, common = (pool[far[pool]] for pool in class_pools(positions))
    strata = positions.query // stratum
    size = strata.max(initial=0) + 1
    counts = np.minimum(np.bincount(strata[rare], minlength=size), np.bincount(strata[common], minlength=size) // 2)
    n = int(counts.sum())
    if n < MIN_QUERIES:
        too_few = Undefined(
            f"{n} queries of each class at position {offsets} or later with enough common ones, under {MIN_QUERIES}"
        )
        return tuple(Profiles(layer, n, too_few, too_few, too_few) for layer in layers)
    drawn = [*draw_by_stratum(rare, strata, counts, rng), *draw_by_stratum(common, strata, counts, rng)]
    for _ in range(draws):
        drawn += draw_by_stratum(common, strata, counts, rng, sets=2)
    drawn += _without_each_block(drawn[0], drawn[1], positions.window)
    means = _mean_attention(attention, positions.query, np.concatenate([rare, common]), drawn, offsets)
    pairs = means.reshape(len(drawn) // 2, 2, *means.shape[1:])
    null = pairs[1 : 1 + draws].reshape(-1, *means.shape[1:])
    low, high = np.quantile(null, (0.025, 0.975), axis=0)
    with_bos, without_bos = (_pearson(pairs[:, 0, ..., first:], pairs[:, 1, ..., first:]) for first in (0, 1))
    return tuple(
        Profiles(
            layer,
            n,
            MeanAttention(pairs[0, 0, i], pairs[0, 1, i], low[i], high[i]),
            _correlation(with_bos[:, i], 1 + draws),
            _correlation(without_bos[:, i], 1 + draws),
        )
        for i, layer in enumerate(layers)
    )


def _without_each_block(rare: np.ndarray, common: np.ndarray, window: np.ndarray) -> list[np.ndarray]:
    """Both sets of queries without each block of windows in turn; nothing if that leaves one of them empty."""
    blocks = np.array_split(np.unique(window[np.concatenate([rare, common])]), BLOCKS)
    left = [rows[~np.isin(window[rows], block)] for block in blocks if len(block) for rows in (rare, common)]
    return left if all(len(rows) for rows in left) else []


def _mean_attention(
    attention: Tensor, query: np.ndarray, rows: np.ndarray, sets: list[np.ndarray], offsets: int
) -> np.ndarray:
    """float64 (sets, layers, H, 1 + offsets): each set's mean attention; the sets (n,) are of `rows`."""
    place = np.empty(len(query), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    weights = np.zeros((len(sets), len(rows)))
    for weight, members in zip(weights, sets, strict=True):
        weight[place[members]] = 1 / len(members)
    values = _profile_values(attention, query, rows, offsets)
    return (weights @ values.reshape(len(rows), -1)).reshape(len(sets), *values.shape[1:])


def _profile_values(attention: Tensor, query: np.ndarray, rows: np.ndarray, offsets: int) -> np.ndarray:
    """float64 (rows, layers, H, 1 + offsets): attention to key 0, then to key query − o for each offset o."""
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


def _correlation(r: np.ndarray, drawn: int) -> Correlation | Undefined:
    """r: (drawn + blocks, H), the classes' first, then the null's, then those that leave out a block of windows."""
    by_head, null, left = r[0], r[1:drawn], r[drawn:]
    defined = np.isfinite(by_head)
    if not defined.any():
        return Undefined("every head's profile is constant")
    null_by_head = tuple(
        compare(float(v), of_head) if np.isfinite(v) else Undefined("the head's profile is constant")
        for v, of_head in zip(by_head, null.T, strict=True)
    )
    mean = float(by_head[defined].mean())
    sd = float(by_head[defined].std(ddof=1)) if defined.sum() > 1 else None
    low, high = _fisher_interval(mean, left[:, defined].mean(1))
    return Correlation(by_head, null_by_head, mean, sd, compare(mean, null[:, defined].mean(1)), low, high)


def _fisher_interval(r: float, left: np.ndarray) -> tuple[float | None, float | None]:
    """95 % interval of a correlation on Fisher's z, from its values (b,) with each block left out; None for too few."""
    if len(left) < MIN_BLOCKS or not np.isfinite(left).all() or max(abs(r), np.abs(left).max()) >= 1:
        return None, None
    reach = NORMAL_95 * float(jackknife_spread(np.arctanh(left)))
    low, high = np.tanh(np.arctanh(r) + np.array([-reach, reach])).tolist()
    return low, high
