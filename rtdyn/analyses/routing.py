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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.nulls import Comparison, compare
from rtdyn.capture import Capture
from rtdyn.errors import InputError
from rtdyn.families import Anatomy, Block
from rtdyn.normal import NORMAL_95
from rtdyn.positions import MeasuredPositions

STRATUM = 16
"""Query positions in a stratum of the histogram that common positions are drawn to."""
PROFILE_OFFSETS = 32
"""Keys back from the query, itself included, in a profile; queries with fewer keys before them are left out of it."""
NULL_DRAWS = 199
PERMUTATIONS = 999
BLOCKS = 32
"""Runs of consecutive windows, at most, whose labels are swapped together."""
MIN_BLOCKS = 6
"""Fewer blocks have too few sign patterns for a p below 0.05."""
MIN_QUERIES = 10
"""Queries a class needs in a profile."""
MEMORY_BYTES = 2**30
BATCH_TOKENS = 4096
"""Tokens run together, at most, for the heads' means."""
RERUN_TOLERANCE = 1e-3
"""Largest error of the blocks' second run, relative to the largest activation."""
METHODS = ("zero", "bos", "mean")
WHERE = ("query", "all")
STRUCTURAL = "structural: with a parallel residual the final attention cannot reach the final MLP"


@dataclass(frozen=True)
class MatchedPositions:
    """As many rare as common positions in every stratum of query positions; indices into the measured positions."""

    rare: np.ndarray
    """int64 (n,), ascending."""
    common: np.ndarray
    """int64 (n,), ascending."""
    rare_left_out: int
    """Rare positions whose stratum has too few common ones."""


@dataclass(frozen=True)
class Correlation:
    """Pearson r between the classes' profiles, and its null of two common draws of the same size."""

    by_head: np.ndarray
    """float64 (H,); NaN for a head with a constant profile."""
    null_by_head: tuple[Comparison | str, ...]
    mean: float | None
    """Over the heads that have an r; None where none has."""
    sd: float | None
    """Over heads; None for fewer than two."""
    null: Comparison | str
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


@dataclass(frozen=True)
class AblationSums:
    """Sums over one class's positions for each ablation of one layer: its H heads, then all of them."""

    n: np.ndarray
    """int64 (parts,): positions in each part of the windows."""
    change: np.ndarray
    """float64 (parts, H + 1, F): Σ |a' − a|."""
    before: np.ndarray
    """float64 (parts, F): Σ |a|."""
    growth: np.ndarray
    """float64 (parts, H + 1, F): Σ (|a'| − |a|)."""
    window_ids: np.ndarray
    """int64 (w,): windows with positions of the class."""
    group_change: Mapping[str, np.ndarray]
    """By group, float64 (w, H + 1): Σ |a' − a| over the group's neurons and each window's positions."""
    group_before: Mapping[str, np.ndarray]
    """By group, float64 (w,)."""
    group_growth: Mapping[str, np.ndarray]
    """By group, float64 (w, H + 1)."""


@dataclass(frozen=True)
class HeadAblation:
    """The heads of one layer, ablated each and together."""

    layer: int
    method: str
    at: str
    classes: Mapping[str, AblationSums]
    structural: str
    """Why the effects are 0 without having been measured, else empty."""
    rerun_error: float
    """Largest |difference| between the capture's activations and the second run's, unablated."""


@dataclass(frozen=True)
class Effects:
    """Effects of a layer's ablations, its H heads and then all, on the activations of sets of neurons; (s, H + 1)."""

    total: np.ndarray
    """Σ |Δa| over the class's positions and the set's neurons (`paper-code`)."""
    share: np.ndarray
    """Σ |Δa| / Σ |a|; NaN where Σ |a| is 0."""
    signed: np.ndarray
    """Σ (|a'| − |a|) / Σ |a|; NaN where Σ |a| is 0."""


@dataclass(frozen=True)
class GroupEffects:
    """Effects on one group, with standard errors that leave out a window at a time; (H + 1,)."""

    total: np.ndarray
    total_se: np.ndarray
    share: np.ndarray
    share_se: np.ndarray
    signed: np.ndarray
    signed_se: np.ndarray
    windows: int
    reason: str
    """Why values or errors are NaN, else empty."""


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


def _layers(captured: Capture) -> tuple[int, ...]:
    last = captured.anatomy.layer
    return tuple(range(last - len(captured.anatomy.attentions) + 1, last + 1))


def _attention(captured: Capture) -> Tensor:
    if captured.attention is None:
        raise ValueError("the capture was made without attention")
    return captured.attention


def matched_positions(
    positions: MeasuredPositions,
    rng: np.random.Generator,
    rare: str = "rare",
    common: str = "common",
    stratum: int = STRATUM,
) -> MatchedPositions:
    """Equal numbers of both classes in every stratum of `stratum` query positions, the larger class drawn from."""
    own, other = _pools(positions, rare, common)
    strata = positions.query // stratum
    counts = np.minimum(*(np.bincount(strata[pool], minlength=strata.max(initial=0) + 1) for pool in (own, other)))
    (first,), (second,) = (_draw(pool, strata, counts, rng) for pool in (own, other))
    return MatchedPositions(first, second, len(own) - len(first))


def _pools(positions: MeasuredPositions, rare: str, common: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of each class's positions; those of both classes count as rare."""
    own = positions.members(rare)
    return np.flatnonzero(own), np.flatnonzero(positions.members(common) & ~own)


def _draw(
    pool: np.ndarray, strata: np.ndarray, counts: np.ndarray, rng: np.random.Generator, sets: int = 1
) -> list[np.ndarray]:
    """`sets` disjoint subsets of `pool`, each with counts[s] members of stratum s, ascending."""
    order = pool[np.lexsort((rng.random(len(pool)), strata[pool]))]
    stratum = strata[order]
    place, count = np.arange(len(order)) - np.searchsorted(stratum, stratum), counts[stratum]
    return [np.sort(order[(place >= k * count) & (place < (k + 1) * count)]) for k in range(sets)]


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
        compare(float(v), of_head) if np.isfinite(v) else "its attention is the same at every offset"
        for v, of_head in zip(by_head, null.T, strict=True)
    )
    if not defined.any():
        return Correlation(by_head, against, None, None, "every head's attention is the same at every offset")
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
    permutations: int = PERMUTATIONS,
    blocks: int = BLOCKS,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Differences of Gini, and of attention to key 0, by layer; each by head, then the mean over heads."""
    attention, positions = _attention(captured), captured.positions
    rows = np.concatenate([matched.rare, matched.common])
    is_rare = np.arange(len(rows)) < len(matched.rare)
    _, layers, heads, length = attention.shape
    chunk = max(1, memory_bytes // (32 * layers * heads * length))
    values = np.empty((2, len(rows), layers, heads))
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        own = attention[torch.from_numpy(some).to(attention.device)]
        keys = torch.from_numpy(positions.query[some] + 1).to(attention.device)
        values[0, start : start + chunk] = gini(own, keys[:, None, None]).cpu().numpy()
        values[1, start : start + chunk] = own[..., 0].double().cpu().numpy()
    values = np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)
    strata, windows = positions.query[rows] // stratum, positions.window[rows]
    measured = [
        [class_difference(of[:, i], is_rare, strata, windows, rng, permutations, blocks) for i in range(layers)]
        for of in values
    ]
    return tuple(measured[0]), tuple(measured[1])


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


def ablate_heads(
    captured: Capture,
    chosen: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
    *,
    method: str = "zero",
    at: str = "query",
    part: np.ndarray | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> tuple[HeadAblation, ...]:
    """What ablating each head of the last two layers, and all of a layer, does to the final MLP's activations.

    chosen: by class, indices into the measured positions. groups, part: as `routing` has them. memory_bytes: what a
    batch may take; a position with all its ablations always goes in one batch. The output projection's bias stays.
    """
    if method not in METHODS or at not in WHERE:
        raise ValueError(f"method is one of {METHODS} and at one of {WHERE}, not {method!r} and {at!r}")
    if captured.stream is None:
        raise ValueError("the capture was made without attention")
    parts, positions = captured.anatomy, captured.positions
    rows = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *chosen.values()]))
    n_windows, neurons = len(captured.stream), captured.activations.shape[1]
    labels = np.zeros(n_windows, dtype=np.int64) if part is None else part
    members = {name: np.isin(np.arange(len(positions.flat)), own) for name, own in chosen.items()}
    sums = [
        {
            name: _Sums(block.heads + 1, neurons, int(labels.max(initial=0)) + 1, groups, captured.activations.device)
            for name in chosen
        }
        for block in parts.blocks
    ]
    errors = [0.0] * len(parts.blocks)
    with torch.inference_mode():
        means = _mean_heads(captured, memory_bytes) if method == "mean" and len(rows) else None
        for window in np.unique(positions.window[rows]):
            here = rows[positions.window[rows] == window]
            clean = _clean_pass(parts, captured.stream[window : window + 1])
            for i, block in enumerate(parts.blocks):
                totals = {name: _Total(block.heads + 1, neurons, captured.activations.device) for name in chosen}
                for some, activations in _ablated(
                    parts, clean, i, positions.query[here], method, at, means, memory_bytes
                ):
                    before = captured.activations[torch.from_numpy(here[some]).to(activations.device)]
                    errors[i] = max(errors[i], float((activations[:, 0] - before).abs().max()))
                    for name, total in totals.items():
                        total.add(activations[torch.from_numpy(members[name][here[some]]).to(activations.device)])
                for name, total in totals.items():
                    sums[i][name].add(int(window), int(labels[window]), total)
    largest = float(captured.activations.abs().max()) if captured.activations.numel() else 0.0
    if max(errors, default=0.0) > RERUN_TOLERANCE * largest:
        raise InputError(
            f"the last blocks, run again, give activations that differ by up to {max(errors):.2g} from the forward "
            "pass; this model's attention heads cannot be ablated"
        )
    structural = [
        STRUCTURAL if parts.parallel_residual and i == len(parts.blocks) - 1 else "" for i in range(len(sums))
    ]
    return tuple(
        HeadAblation(layer, method, at, {name: own.result() for name, own in by_class.items()}, reason, error)
        for layer, by_class, reason, error in zip(_layers(captured), sums, structural, errors, strict=True)
    )


def effects(sums: AblationSums, sets: np.ndarray, part: int | None = None) -> Effects:
    """Effects on sets (s, n) of neurons, over one part of the windows or all of them."""
    chosen = slice(None) if part is None else slice(part, part + 1)
    neurons = [v[chosen].sum(0).T for v in (sums.change, sums.before[:, None], sums.growth)]
    change, before, growth = (np.stack([v[own].sum(0) for own in sets]) for v in neurons)
    return Effects(change, _ratio(change, before), _ratio(growth, before))


def group_effects(sums: AblationSums, name: str, windows: np.ndarray | None = None) -> GroupEffects:
    """Effects on the group `name`, over the windows whose flag in windows (all windows,) is set, or all of them."""
    own = np.ones(len(sums.window_ids), dtype=bool) if windows is None else windows[sums.window_ids]
    change, growth = sums.group_change[name][own], sums.group_growth[name][own]
    before = sums.group_before[name][own][:, None]
    count = len(change)
    undefined = np.full(change.shape[1], np.nan)
    if count == 0:
        return GroupEffects(*(undefined,) * 6, windows=0, reason="no position of the class")
    statistics: tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], ...] = (
        lambda c, b, g: c,
        lambda c, b, g: _ratio(c, b),
        lambda c, b, g: _ratio(g, b),
    )
    whole = [v.sum(0) for v in (change, before, growth)]
    # a sum over one window less is scaled up to as many windows; the ratios need no scale
    left = [(total - v) * (count / max(1, count - 1)) for total, v in zip(whole, (change, before, growth), strict=True)]
    values, errors = [], []
    for statistic in statistics:
        without = statistic(*left)
        spread = ((without - without.mean(0)) ** 2).sum(0)
        values.append(statistic(*whole))
        errors.append(np.sqrt(spread * (count - 1) / count) if count > 1 else undefined)
    if before.sum() == 0:
        reason = "the group's activations are all 0"
    else:
        reason = "" if np.isfinite(errors).all() else "one window alone holds all of the group's activation"
    return GroupEffects(values[0], errors[0], values[1], errors[1], values[2], errors[2], windows=count, reason=reason)


def _ratio(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(value, by, out=np.full(np.broadcast_shapes(value.shape, by.shape), np.nan), where=by > 0)


class _Total:
    """Sums of |Δa|, |a| and |a'| − |a| over one class's positions in one window."""

    def __init__(self, ablations: int, neurons: int, device: torch.device) -> None:
        self.n = 0
        self.before = torch.zeros(neurons, dtype=torch.float64, device=device)
        self.change, self.growth = torch.zeros(2, ablations, neurons, dtype=torch.float64, device=device)

    def add(self, activations: Tensor) -> None:
        """activations: (positions, 1 + ablations, F), unablated first, or that alone where nothing has an effect."""
        self.n += len(activations)
        size = activations.abs()
        self.before += size[:, 0].sum(0, dtype=torch.float64)
        if activations.shape[1] == 1:
            return
        self.change += (activations[:, 1:] - activations[:, :1]).abs().sum(0, dtype=torch.float64)
        self.growth += (size[:, 1:] - size[:, :1]).sum(0, dtype=torch.float64)


class _Sums:
    """What `AblationSums` holds, window after window."""

    def __init__(
        self, ablations: int, neurons: int, labels: int, groups: Mapping[str, np.ndarray], device: torch.device
    ) -> None:
        self.n = np.zeros(labels, dtype=np.int64)
        self.before = torch.zeros(labels, neurons, dtype=torch.float64, device=device)
        self.change, self.growth = torch.zeros(2, labels, ablations, neurons, dtype=torch.float64, device=device)
        self.windows: list[int] = []
        self.groups = {name: torch.from_numpy(own).to(device) for name, own in groups.items()}
        self.by_window: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in groups}
        self.ablations = ablations

    def add(self, window: int, label: int, total: _Total) -> None:
        if total.n == 0:
            return
        self.n[label] += total.n
        self.before[label] += total.before
        self.change[label] += total.change
        self.growth[label] += total.growth
        self.windows.append(window)
        for name, own in self.groups.items():
            kinds = (total.change, total.before, total.growth)
            self.by_window[name].append(tuple(v[..., own].sum(-1).cpu().numpy() for v in kinds))

    def result(self) -> AblationSums:
        shapes = ((0, self.ablations), (0,), (0, self.ablations))
        change, before, growth = (
            {
                name: np.stack([v[kind] for v in values]) if values else np.empty(shape)
                for name, values in self.by_window.items()
            }
            for kind, shape in enumerate(shapes)
        )
        return AblationSums(
            self.n,
            self.change.cpu().numpy(),
            self.before.cpu().numpy(),
            self.growth.cpu().numpy(),
            np.array(self.windows, dtype=np.int64),
            change,
            before,
            growth,
        )


class _Cache:
    """Stands where a block expects its cache: puts earlier keys and values before the new ones, and keeps the new."""

    def __init__(self, earlier: _Cache | None = None) -> None:
        self.earlier = earlier
        self.keys, self.values = torch.empty(0), torch.empty(0)

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values
        if self.earlier is None:
            return keys, values
        return torch.cat([self.earlier.keys, keys], dim=2), torch.cat([self.earlier.values, values], dim=2)


@dataclass(frozen=True)
class _Pass:
    """One run of a block over (batch, positions)."""

    stream: Tensor
    """(batch, positions, d): what leaves it."""
    heads: Tensor
    """(batch, positions, H, head size): the heads' outputs, before any replacement."""
    activations: Tensor | None
    """(batch, positions, F), for the final block."""


@dataclass(frozen=True)
class _Clean:
    """One window as it is: what enters each of the blocks, and the heads' outputs there."""

    streams: tuple[Tensor, ...]
    """(T, d) each."""
    heads: tuple[Tensor, ...]
    """(T, H, head size) each."""
    cache: _Cache
    """Keys and values of the final block."""


def _run(
    parts: Anatomy,
    block: Block,
    hidden: Tensor,
    ids: Tensor,
    mask: Tensor | None = None,
    heads: Tensor | None = None,
    cache: _Cache | None = None,
) -> _Pass:
    """Runs the block over hidden (batch, positions, d) at position ids; `heads` replaces its heads' outputs."""
    seen: dict[str, Tensor] = {}

    def on_heads(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        seen["heads"] = inputs[0]
        return None if heads is None else (heads.flatten(-2).contiguous(),)

    def on_activations(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["activations"] = inputs[0]

    handles = [
        block.attention_output.register_forward_pre_hook(on_heads),
        parts.mlp_output.register_forward_pre_hook(on_activations),
    ]
    arguments: dict[str, Any] = {"attention_mask": mask}
    if parts.rotary is not None:
        arguments["position_embeddings"] = parts.rotary(hidden, position_ids=ids)
    if cache is not None:
        arguments[block.cache_name] = cache
    try:
        output = block.module(hidden, **arguments)
    finally:
        for handle in handles:
            handle.remove()
    stream = output[0] if isinstance(output, tuple) else output
    return _Pass(stream, seen["heads"].unflatten(-1, (block.heads, block.head_size)), seen.get("activations"))


def _mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """(1, 1, queries, keys), to be added to the attention's logits: the least number where not allowed."""
    return torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)[None, None]


def _causal(stream: Tensor) -> tuple[Tensor, Tensor]:
    """Position ids and mask of whole windows (batch, T, d)."""
    ids = torch.arange(stream.shape[1], device=stream.device)
    return ids[None], _mask(ids <= ids[:, None], stream.dtype)


def _clean_pass(parts: Anatomy, stream: Tensor) -> _Clean:
    """One window (1, T, d) through the last blocks, the final one only where something of it is needed."""
    ids, mask = _causal(stream)
    streams, heads, cache = [], [], _Cache()
    for i, block in enumerate(parts.blocks):
        streams.append(stream[0])
        if i == len(parts.blocks) - 1 and parts.parallel_residual:
            break
        passed = _run(parts, block, stream, ids, mask, cache=cache)
        heads.append(passed.heads[0])
        stream = passed.stream
    return _Clean(tuple(streams), tuple(heads), cache)


def _mean_heads(captured: Capture, memory_bytes: int) -> list[Tensor]:
    """Each block's (H, head size): mean output of its heads over the kept positions of all windows."""
    parts, stream = captured.anatomy, captured.stream
    assert stream is not None
    n_windows, length, _ = stream.shape
    kept = torch.zeros(n_windows * length, dtype=torch.bool)
    kept[torch.from_numpy(captured.kept_flat)] = True
    kept = kept.view(n_windows, length).to(stream.device)
    ids, mask = _causal(stream)
    # a final block whose attention has no effect needs no mean
    blocks = parts.blocks[:-1] if parts.parallel_residual else parts.blocks
    sums = [torch.zeros(b.heads, b.head_size, dtype=torch.float64, device=stream.device) for b in blocks]
    tokens = min(BATCH_TOKENS, memory_bytes // max(_position_bytes(parts, b, length) for b in parts.blocks))
    for some in torch.arange(n_windows, device=stream.device).split(max(1, tokens // length)):
        hidden = stream[some]
        for own, block in zip(sums, blocks, strict=True):
            passed = _run(parts, block, hidden, ids, mask)
            own += passed.heads[kept[some]].sum(0, dtype=torch.float64)
            hidden = passed.stream
    return [(own / len(captured.kept_flat)).to(stream.dtype) for own in sums]


def _position_bytes(parts: Anatomy, block: Block, keys: int) -> int:
    """What a position of a run takes: about sixteen numbers of each width, six of each neuron, three of each key."""
    neurons, width = parts.output_rows.shape
    return 4 * (16 * width + 6 * neurons + 3 * block.heads * keys)


def _ablated(
    parts: Anatomy,
    clean: _Clean,
    which: int,
    query: np.ndarray,
    method: str,
    at: str,
    means: list[Tensor] | None,
    memory_bytes: int,
) -> Iterator[tuple[slice, Tensor]]:
    """Activations (positions, 1 + H + 1, F) at some of the window's positions `query`: as they are, then ablated.

    which: of the blocks, the one whose heads are ablated.
    """
    block, final = parts.blocks[which], parts.blocks[-1]
    at_query = torch.from_numpy(query).to(clean.streams[which].device)
    length = len(clean.streams[which])
    if which == len(parts.blocks) - 1 and parts.parallel_residual:
        # nothing to measure but |a| itself: the final MLP's input is the block's
        passed = _run(parts, final, clean.streams[which][at_query][:, None], at_query[:, None])
        assert passed.activations is not None
        yield slice(0, len(query)), passed.activations
        return
    variants = block.heads + 2
    replacement = _replacement(clean.heads[which], method, None if means is None else means[which])
    per_position = _position_bytes(parts, block, 2 * length)
    if at == "all" and block is not final and not parts.parallel_residual:
        ids, mask = _causal(clean.streams[which][None])
        found = []
        changed = _variants(clean.heads[which], replacement).transpose(0, 1)
        for some in changed.split(max(1, memory_bytes // (per_position * length))):
            hidden = clean.streams[which].expand(len(some), -1, -1)
            hidden = _run(parts, block, hidden, ids, mask, heads=some).stream
            activations = _run(parts, final, hidden, ids, mask).activations
            assert activations is not None
            found.append(activations[:, at_query])
        yield slice(0, len(query)), torch.cat(found).transpose(0, 1)
        return
    together = max(1, min(length, memory_bytes // per_position) // variants)
    for start in range(0, len(query), together):
        some = at_query[start : start + together]
        ids = some.repeat_interleave(variants)
        changed = _variants(clean.heads[which][some], replacement).flatten(0, 1)
        # the heads' outputs are given, so that each position may run alone, as a sequence of its own
        hidden = clean.streams[which][ids][:, None]
        passed = _run(parts, block, hidden, ids[:, None], heads=changed[:, None])
        if block is not final:
            passed = _continue(parts, final, passed.stream[:, 0], ids, clean.cache)
        assert passed.activations is not None
        yield slice(start, start + len(some)), passed.activations.reshape(len(some), variants, -1)


def _continue(parts: Anatomy, final: Block, stream: Tensor, ids: Tensor, cache: _Cache) -> _Pass:
    """The final block over changed positions (n, d), each seeing the clean keys before it and its own."""
    if parts.parallel_residual:
        return _run(parts, final, stream[:, None], ids[:, None])
    earlier = torch.arange(cache.keys.shape[2], device=ids.device) < ids[:, None]
    itself = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    mask = _mask(torch.cat([earlier, itself], dim=1), stream.dtype)
    return _run(parts, final, stream[None], ids[None], mask, cache=_Cache(cache))


def _replacement(heads: Tensor, method: str, mean: Tensor | None) -> Tensor:
    """(H, head size): what stands in for each head's output; heads (T, H, head size) are the window's."""
    if method == "zero":
        return torch.zeros_like(heads[0])
    # the first query can see no key but key 0, so that its output is the value there
    return heads[0] if mean is None else mean


def _variants(heads: Tensor, replacement: Tensor) -> Tensor:
    """(n, 1 + H + 1, H, head size): heads (n, H, head size) as they are, with each one replaced, and with all."""
    count = heads.shape[1]
    one = torch.eye(count, dtype=torch.bool, device=heads.device)
    flags = torch.cat([torch.zeros_like(one[:1]), one, torch.ones_like(one[:1])])
    return torch.where(flags[:, :, None], replacement, heads[:, None])
