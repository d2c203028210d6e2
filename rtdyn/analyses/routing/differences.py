"""Differences of attention between the classes: Gini coefficients and attention to key 0 (METHODS §7).

Gini of a query's attention x over the k keys it may see, G = 2·Σ_j j·x_(j) / (k·Σ x) − (k + 1)/k with x ascending: 0
where uniform, (k − 1)/k where all on one key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.routing.blocks import BLOCKS, MIN_BLOCKS
from rtdyn.analyses.routing.last_layers import MEMORY_BYTES, captured_attention
from rtdyn.analyses.routing.matching import STRATUM, MatchedPositions
from rtdyn.capture.forward_pass import Capture
from rtdyn.intervals import normal_interval

PERMUTATIONS = 999


@dataclass(frozen=True)
class Difference:
    """Class means of K numbers, rare minus common; float64 (K,), the last of them the mean of the others."""

    rare: np.ndarray
    common: np.ndarray
    difference: np.ndarray
    se: np.ndarray
    """Blocks of windows as clusters."""
    p_value: np.ndarray
    """Two-sided, by swapping the labels of whole blocks."""
    n: int
    """Positions of each class."""
    blocks: int
    reason: str
    """Why p_value and se are NaN, else empty."""

    def interval(self, k: int) -> tuple[float | None, float | None]:
        """95 % interval of the k-th difference; (None, None) without a standard error."""
        return normal_interval(float(self.difference[k]), float(self.se[k]))


def gini(attention: Tensor, keys: Tensor) -> Tensor:
    """float64 (...): Gini coefficient of each row over its first `keys` entries; NaN where they are all 0.

    attention: (..., T) ≥ 0 and 0 beyond the first keys (...) entries, as causal attention is.
    """
    ascending = attention.sort(dim=-1).values.double()
    length, keys = attention.shape[-1], keys.double()
    total = ascending.sum(-1)
    # the T − k entries beyond the keys are 0, so they come first and only shift the ranks
    ranked = ascending @ torch.arange(1, length + 1, dtype=torch.float64, device=attention.device)
    value = 2 * (ranked - (length - keys) * total) / (keys * total) - (keys + 1) / keys
    return torch.where(total > 0, value, torch.nan)


def class_differences(
    captured: Capture,
    matched: MatchedPositions,
    rng: np.random.Generator,
    stratum: int = STRATUM,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Differences of Gini, and of attention to key 0, by layer; each by head, then the mean over heads.

    Raises ValueError for a capture without attention.
    """
    attention, positions = captured_attention(captured), captured.positions
    rows = np.concatenate([matched.rare, matched.common])
    is_rare = np.arange(len(rows)) < len(matched.rare)
    _, layers, heads, length = attention.shape
    chunk = max(1, memory_bytes // (32 * layers * heads * length))
    values = np.empty((2, len(rows), layers, heads))
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        of_rows = attention[torch.from_numpy(some).to(attention.device)]
        keys = torch.from_numpy(positions.query[some] + 1).to(attention.device)
        values[0, start : start + chunk] = gini(of_rows, keys[:, None, None]).cpu().numpy()
        values[1, start : start + chunk] = of_rows[..., 0].double().cpu().numpy()
    values = np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)
    strata, windows = positions.query[rows] // stratum, positions.window[rows]
    gini_by_layer, first_key_by_layer = (
        tuple(class_difference(measured[:, i], is_rare, strata, windows, rng) for i in range(layers))
        for measured in values
    )
    return gini_by_layer, first_key_by_layer


def class_difference(
    values: np.ndarray,
    is_rare: np.ndarray,
    strata: np.ndarray,
    windows: np.ndarray,
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
    blocks: int = BLOCKS,
) -> Difference:
    """Difference of class means of values (n, K), with as many rare as common rows in each stratum.

    is_rare: bool (n,). strata, windows: int (n,), each row's.

    The strata's means taken out, each block of consecutive windows contributes a number to the difference; swapping
    the labels of the whole block turns its sign. Positions of one block may thus depend on each other as they like.
    Raises ValueError for unequal numbers in a stratum.
    """
    n, k = int(is_rare.sum()), values.shape[1]
    undefined = np.full(k, np.nan)
    if n == 0:
        return Difference(undefined, undefined, undefined, undefined, undefined, 0, 0, "no rare position has a match")
    sign = np.where(is_rare, 1.0, -1.0)
    _, index, size = np.unique(strata, return_inverse=True, return_counts=True)
    if np.bincount(index, sign).any():
        raise ValueError("the classes have unequal numbers of positions in a stratum")
    centred = values - (_sums_by(index, values, len(size)) / size[:, None])[index]
    means = values[is_rare].mean(0), values[~is_rare].mean(0)
    difference = means[0] - means[1]
    _, window = np.unique(windows, return_inverse=True)
    count = min(blocks, window.max() + 1)
    if count < MIN_BLOCKS:
        reason = f"{count} blocks of windows, under {MIN_BLOCKS}"
        return Difference(*means, difference, undefined, undefined, n, count, reason)
    block = window * count // (window.max() + 1)
    contributions = _sums_by(block, sign[:, None] * centred, count) / n
    residuals = _sums_by(block, sign[:, None] * centred - difference / 2, count) / n
    se = np.sqrt((residuals**2).sum(0) * count / (count - 1))
    swapped = np.abs(rng.choice([-1.0, 1.0], size=(permutations, count)) @ contributions)
    # equal patterns of signs may differ in the last digit
    p_value = (1 + (swapped >= np.abs(contributions.sum(0)) * (1 - 1e-9)).sum(0)) / (permutations + 1)
    defined = np.isfinite(difference)
    reason = "" if defined.all() else "a query's attention is 0 everywhere"
    return Difference(
        *means, difference, np.where(defined, se, np.nan), np.where(defined, p_value, np.nan), n, count, reason
    )


def _sums_by(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """float64 (size, K): sums of the rows of values (n, K) by index."""
    sums = np.zeros((size, values.shape[1]))
    np.add.at(sums, index, values)
    return sums
