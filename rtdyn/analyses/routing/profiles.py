"""Attention profiles: do a layer's heads look elsewhere from rare targets (METHODS §7).

A class's mean attention to key 0 and to the keys o positions back is a profile; one r = Pearson(rare, common) a head.
Noise of the means lowers r: at 200 targets it says more of the sample's size than of the heads. So the reported r is
that of the profiles without noise (Spearman's correction for attenuation). It takes the three sums of products over
offsets, Σ x·y, Σ x² and Σ y². From each is taken what the errors of x and y add to it, which the independent pieces of
the text show. The plain r stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.regimes.contrast import contrast
from rtdyn.analyses.routing.attention import captured_attention
from rtdyn.analyses.routing.reference import PseudoSets, Reference
from rtdyn.analyses.statistics import Comparison, Estimate, estimate, jackknife_se
from rtdyn.capture.forward_pass import Capture
from rtdyn.counted import counted
from rtdyn.intervals import QUANTILES_95
from rtdyn.undefined import Undefined

PROFILE_OFFSETS = 32
"""Keys back from the query, itself included, in a profile; queries with fewer keys before them are left out of it."""
MIN_QUERIES = 10
"""Queries of the rare class in a profile, at least."""
MIN_CLUSTERS = 6
"""Independent pieces of text that they lie in, at least."""
LEAST_RELIABILITY = 0.2
"""Share of a profile's sum of squares that is no noise, under which r without noise is not told."""


@dataclass(frozen=True)
class Correlation:
    """Pearson r between the classes' profiles without their noise; over the H heads that have one."""

    by_head: np.ndarray
    """float64 (H,); NaN for a head with a constant profile, or one that noise hides."""
    plain_by_head: np.ndarray
    """float64 (H,): of the profiles as they are; NaN for a head with a constant profile."""
    null_by_head: tuple[Comparison | Undefined, ...]
    """(H,): each head's plain r among those of pseudo-classes, or why it has no place there."""
    mean: Estimate | Undefined
    """Over heads; its interval leaves out an independent piece of text at a time. Both are held to −1 to 1; a head
    of `by_head` may lie beyond, as what is taken out for noise is an estimate."""
    sd: float | None
    """Over heads; None for fewer than two."""
    plain_mean: float
    null: Comparison | Undefined
    """Of `plain_mean`."""


@dataclass(frozen=True)
class MeanAttention:
    """Mean attention to key 0, then to the query itself, the key before it, and so on; float64 (H, 1 + offsets)."""

    rare: np.ndarray
    common: np.ndarray
    common_low: np.ndarray
    """Between this and `common_high` lie 95 % of the pseudo-classes' means, key by key; NaN without these."""
    common_high: np.ndarray


@dataclass(frozen=True)
class Profiles:
    """Attention profiles of one layer's H heads."""

    layer: int
    n: int
    """Queries of the rare class."""
    attention: MeanAttention | Undefined
    with_bos: Correlation | Undefined
    without_bos: Correlation | Undefined
    """Key 0 left out."""


def attention_profiles(
    captured: Capture, beside: Reference, pseudo: PseudoSets | Undefined, offsets: int = PROFILE_OFFSETS
) -> tuple[Profiles, ...]:
    """Profiles of both classes by layer.

    beside: of queries with at least `offsets` keys before them, with a row for each of the pseudo-classes. Raises
    ValueError for a capture without attention.
    """
    attention, layers = captured_attention(captured), captured.attention_layers
    too_few = _too_few(beside, offsets)
    if too_few is not None:
        return tuple(Profiles(layer, beside.n, too_few, too_few, too_few) for layer in layers)
    values = _profile_values(attention, captured.positions.query, beside.rows, offsets)
    shape = values.shape[1:]
    flat = values.reshape(len(values), -1)
    means = {
        name: (weights @ flat).reshape(-1, *shape) for name, weights in (("own", beside.own), ("common", beside.common))
    }
    errors = [
        e.reshape(-1, *shape) for e in beside.residuals(flat, means["own"][0].ravel(), means["common"][0].ravel())
    ]
    left = _without_each_cluster(beside, flat, shape)
    band = np.full((2, *shape), np.nan)
    if len(beside.own) > 1:
        band = np.quantile(means["own"][1:], QUANTILES_95, axis=0)
    return tuple(
        Profiles(
            layer,
            beside.n,
            MeanAttention(means["own"][0, i], means["common"][0, i], band[0, i], band[1, i]),
            *(
                _correlation(
                    {name: v[:, i, :, first:] for name, v in means.items()},
                    (errors[0][:, i, :, first:], errors[1][:, i, :, first:]),
                    (left[0][:, i, :, first:], left[1][:, i, :, first:]),
                    beside,
                    pseudo,
                )
                for first in (0, 1)
            ),
        )
        for i, layer in enumerate(layers)
    )


def _too_few(beside: Reference, offsets: int) -> Undefined | None:
    if beside.n < MIN_QUERIES:
        return Undefined(
            f"{counted(beside.n, 'rare query')} at position {offsets} or later with common ones, under {MIN_QUERIES}"
        )
    if beside.clusters < MIN_CLUSTERS:
        return Undefined(
            f"the rare queries lie in {counted(beside.clusters, 'independent piece')} of text, under {MIN_CLUSTERS}"
        )
    return None


def _profile_values(attention: Tensor, query: np.ndarray, rows: np.ndarray, offsets: int) -> np.ndarray:
    """float64 (rows, layers, H, 1 + offsets): attention to key 0, then to key query − o for each offset o."""
    back = query[rows][:, None] - np.arange(offsets)
    keys = torch.from_numpy(np.column_stack([np.zeros(len(rows), dtype=np.int64), back])).to(attention.device)
    chosen = attention[torch.from_numpy(rows).to(attention.device)]
    return chosen.gather(3, keys[:, None, None].expand(*chosen.shape[:3], -1)).double().cpu().numpy()


def _without_each_cluster(beside: Reference, flat: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """float64 (g, layers, H, 1 + offsets) twice: means of the rare class and of common ones, a cluster left out."""
    held = np.unique(beside.cluster[beside.own[0] > 0])
    weights = [beside.without(int(c)) for c in held]
    own, common = (np.stack([pair[k] for pair in weights]) @ flat for k in (0, 1))
    return own.reshape(-1, *shape), common.reshape(-1, *shape)


def _products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ over the last axis of x·y, both less their means over it."""
    return ((x - x.mean(-1, keepdims=True)) * (y - y.mean(-1, keepdims=True))).sum(-1)


def _pearson(
    x: np.ndarray, y: np.ndarray, noise: np.ndarray | float = 0.0, least_reliability: float = 0.0
) -> np.ndarray:
    """r over the last axis, noise (3, …) taken from Σ xy, Σ x² and Σ y²; NaN where either is constant or hidden."""
    sums = np.stack([_products(x, y), _products(x, x), _products(y, y)])
    left = sums - noise
    varies = np.ones(sums.shape[1:], dtype=bool)
    for total, signal, v in zip(sums[1:], left[1:], (x, y), strict=True):
        varies &= (np.sqrt(total) > 1e-12 * np.abs(v).max(-1)) & (signal > least_reliability * total)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, left[0] / np.sqrt(left[1] * left[2]), np.nan)


def _ratio_bias(x: np.ndarray, y: np.ndarray, errors: tuple[np.ndarray, np.ndarray], clusters: int) -> np.ndarray:
    """What r without noise (H,) errs by on average, to second order in the noise, as a ratio of sums that err together.

    Noise that makes a profile larger as a whole leaves r as it is, and its square is taken from Σ x² all the same. The
    sums over offsets of xy, x² and y² without noise err by nothing on average, but their ratio does by their
    covariances. These are relative to the sums with noise, as they are too large where noise is much of a profile.

    x, y: (H, o). errors: what each cluster adds to those of x and of y, (g, H, o) each.
    """
    of_x, of_y = errors
    xy, xx, yy = _products(x, y), _products(x, x), _products(y, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.sqrt(xx * yy)
        of_xy = (_products(of_x, y) + _products(x, of_y)) / scale
        moved = np.stack([of_xy, 2 * _products(of_x, x) / xx, 2 * _products(of_y, y) / yy])
        (_, ab, ac), (_, bb, bc), (_, _, cc) = np.einsum("igh,jgh->ijh", moved, moved) * clusters / (clusters - 1)
        return xy / scale * (3 * (bb + cc) / 8 + bc / 4) - (ab + ac) / 2


def _within_one(r: Estimate) -> Estimate:
    """A correlation and its interval, which lie between −1 and 1 whatever the noise taken out makes of them."""
    low, high = (None if end is None else min(max(end, -1.0), 1.0) for end in (r.low, r.high))
    return Estimate(min(max(r.value, -1.0), 1.0), low, high, r.clusters)


def _correlation(
    means: Mapping[str, np.ndarray],
    errors: tuple[np.ndarray, np.ndarray],
    left: tuple[np.ndarray, np.ndarray],
    beside: Reference,
    pseudo: PseudoSets | Undefined,
) -> Correlation | Undefined:
    """One layer's r.

    means: of the rare class and then the pseudo-classes, and of the common positions of each, (1 + draws, H, o).
    errors: what each cluster adds to those of the rare class and its common ones, (g, H, o). left: the means with each
    of the clusters that hold rare positions left out.
    """
    plain = _pearson(means["own"], means["common"])
    constant = np.isnan(plain[0])
    if constant.all():
        return Undefined("every head's profile is constant")
    count = beside.clusters
    x, y = errors
    noise = np.stack([_products(a, b).sum(0) for a, b in ((x, y), (x, x), (y, y))]) * count / (count - 1)
    own, common = means["own"][0], means["common"][0]
    by_head = _pearson(own, common, noise, LEAST_RELIABILITY)
    by_head = by_head - _ratio_bias(own, common, errors, count)
    known = np.isfinite(by_head)
    mean: Estimate | Undefined = Undefined("noise hides every head's profile; more rare positions would show it")
    if known.any():
        # a text with a cluster less has noise that is as much larger
        without = _pearson(left[0], left[1], noise[:, None] * count / (count - 1))[:, known].mean(1)
        mean = _within_one(estimate(float(by_head[known].mean()), float(jackknife_se(without)), count))
    null_by_head = tuple(
        Undefined("the head's profile is constant") if none
        else pseudo if isinstance(pseudo, Undefined)
        else contrast(float(of_head[0]), of_head[1:], pseudo.overlap)
        for none, of_head in zip(constant.tolist(), plain.T, strict=True)
    )  # fmt: skip
    plain_mean = plain[:, ~constant].mean(1)
    null = pseudo if isinstance(pseudo, Undefined) else contrast(float(plain_mean[0]), plain_mean[1:], pseudo.overlap)
    sd = float(by_head[known].std(ddof=1)) if known.sum() > 1 else None
    return Correlation(by_head, plain[0], null_by_head, mean, sd, float(plain_mean[0]), null)
