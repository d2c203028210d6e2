"""How ablation changes the model's confidence: entropy, and divergence from the unigram distribution (METHODS §2)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.groups.choose import Group
from rtdyn.analyses.groups.nulls import permuted_sets
from rtdyn.analyses.influence import fused
from rtdyn.analyses.influence.ablation import MEMORY_BYTES
from rtdyn.analyses.influence.block_sizes import block_sizes, slices
from rtdyn.analyses.influence.certified import DOUBLE_ROUNDING, EPSILON, SUM_ROUNDING, Z_ROUNDING, largest_shift
from rtdyn.analyses.influence.fused import ROWS
from rtdyn.analyses.influence.logit_shift import NeuronBlock, coefficients, neuron_block
from rtdyn.analyses.influence.position_block import PositionBlock, position_block
from rtdyn.analyses.influence.unembedding import Unembedding, unembedding
from rtdyn.analyses.kernels.tilted_sums import tilted_sums
from rtdyn.analyses.statistics import _numpy, clustered_se
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import RANDOM

PAIR_TOLERANCE = 1e-4
"""Round-off in nats beyond which a pair's change of entropy or KL is summed in float64."""


PAIR_BYTES = 512
"""What a pair takes while its changes are computed: about sixty float64 numbers."""


TERMS = 4
"""Sums a pair needs: of p·h, p·z(e^z − 1), p·ℓ·h and p·κ·h."""


@dataclass(frozen=True)
class ClassConfidence:
    """What ablating each of k neurons does to the predictions at one class's positions; in nats, float64 (k,)."""

    n: int
    entropy: float
    """Mean H(p) before ablation."""
    entropy_se: float
    kl: float
    """Mean KL(p‖f) before ablation, p conditioned on the types that have counts."""
    kl_se: float
    entropy_change: Tensor
    """mean H(p') − H(p)."""
    entropy_change_se: Tensor
    kl_change: Tensor
    """mean KL(p'‖f) − KL(p‖f)."""
    kl_change_se: Tensor
    error_bound: Tensor
    """Largest round-off of either mean change."""
    window_ids: Tensor
    """int64 (w,)."""
    window_n: Tensor
    """int64 (w,): positions in each."""
    window_entropy_change: Tensor
    """float64 (w, k): sums over each window's positions."""
    window_kl_change: Tensor


@dataclass(frozen=True)
class Confidence:
    """Changes of entropy and of KL to the unigram distribution, for some neurons."""

    neurons: np.ndarray
    """int64 (k,)."""
    classes: dict[str, ClassConfidence]
    summed_in_double: float
    """Share of the pairs whose float32 sums could err by more than the tolerance."""


def confidence(
    captured: Capture,
    counts: np.ndarray,
    neurons: np.ndarray,
    *,
    most: int | None = None,
    seed: int = 0,
    tolerance: float = PAIR_TOLERANCE,
    memory_bytes: int = MEMORY_BYTES,
) -> Confidence:
    """Entropy and KL to the unigram distribution before and after ablating each of `neurons`.

    counts: (types,) occurrences, as for `unigram_direction`; f ∝ counts + 1. neurons: int64 (k,), distinct or not.
    most: positions of each class to take, drawn by `seed`; None for all that are measured. tolerance: round-off in
    nats beyond which a pair is summed in float64. Costs O(V) for each pair of position and neuron. Raises
    ValueError for more counts than logits or a neuron that does not exist.
    """
    f, logits = len(captured.anatomy.output_rows), len(captured.anatomy.readout.unembedding)
    if len(counts) > logits:
        raise ValueError(f"{len(counts)} counts are more than the {logits} logits")
    if len(neurons) and (neurons.min() < 0 or neurons.max() >= f):
        raise ValueError(f"neurons must lie between 0 and {f - 1}")
    captured = captured if most is None else _some_positions(captured, most, seed)
    device, n = captured.residual.device, len(captured.residual)
    weights = torch.from_numpy(counts.astype(np.float64) + 1).to(device)
    log_f = weights.log() - weights.sum().log()
    # two more arrays of the vocabulary's length a position than the certified pass holds
    sizes = block_sizes(captured, memory_bytes // 2, PAIR_BYTES)
    u = unembedding(captured, sizes)
    index = torch.from_numpy(neurons.astype(np.int64)).to(device)
    before = torch.zeros(2, n, dtype=torch.float64, device=device)
    changes = torch.zeros(3, n, len(neurons), dtype=torch.float64, device=device)
    doubled = 0
    for rows in slices(n, sizes.positions):
        at = position_block(captured, u, rows, sizes)
        surprise = _surprise(at, u, log_f, sizes.softmax_rows)
        before[:, rows] = torch.stack([surprise.entropy, surprise.kl])
        for some in slices(len(neurons), sizes.neurons):
            of = neuron_block(captured, u, index[some])
            a, t = coefficients(captured, at, of)
            changes[:, rows, some], again = _changes(at, of, u, surprise, a, t, log_f, tolerance)
            doubled += again
    classes = {c.name: _class(captured, c.name, before, changes) for c in captured.positions.classes}
    return Confidence(neurons, classes, doubled / max(1, n * len(neurons)))


def _some_positions(captured: Capture, most: int, seed: int) -> Capture:
    """The capture at no more than `most` positions of each class."""
    positions = captured.positions

    def drawn(name: str, measured: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([seed, crc32(name.encode())])
        return measured if len(measured) <= most else np.sort(rng.choice(measured, most, replace=False))

    classes = tuple(replace(c, measured=drawn(c.name, c.measured)) for c in positions.classes)
    chosen = np.isin(positions.flat, np.concatenate([c.measured for c in classes]))
    index = torch.from_numpy(np.flatnonzero(chosen)).to(captured.residual.device)
    fields = {name: getattr(positions, name)[chosen] for name in ("flat", "window", "query", "target")}
    return replace(
        captured,
        positions=replace(positions, classes=classes, **fields),
        residual=captured.residual[index],
        activations=captured.activations[index],
    )


def _class(captured: Capture, name: str, before: Tensor, changes: Tensor) -> ClassConfidence:
    """Means over one class of before (2, N) and changes (3, N, k), the last of them round-off."""
    device = before.device
    member = torch.from_numpy(captured.positions.members(name)).to(device)
    windows = torch.from_numpy(captured.positions.window).to(device)[member]
    ids, counts = torch.unique(windows, return_counts=True)
    n = len(windows)
    by_window = (ids[:, None] == windows).double()
    own = by_window @ before[:, member].T
    own_se = clustered_se(own, counts).tolist()
    entropy, kl = (own.sum(0) / n).tolist()
    entropy_change, kl_change = (by_window @ v[member] for v in changes[:2])
    return ClassConfidence(
        n=n,
        entropy=entropy,
        entropy_se=own_se[0],
        kl=kl,
        kl_se=own_se[1],
        entropy_change=entropy_change.sum(0) / n,
        entropy_change_se=clustered_se(entropy_change, counts),
        kl_change=kl_change.sum(0) / n,
        kl_change_se=clustered_se(kl_change, counts),
        error_bound=changes[2, member].mean(0),
        window_ids=ids,
        window_n=counts,
        window_entropy_change=entropy_change,
        window_kl_change=kl_change,
    )


@dataclass(frozen=True)
class _Weighted:
    """A function g of the types with E g = 0 under some p, float64 unless said."""

    weights: Tensor
    """float32 (n, V): p·g."""
    row: Tensor
    """(n, d): E[g·u]."""
    sd: Tensor
    """(n, 1): √(E g²)."""
    largest: Tensor
    """(n, 1): max |g|."""


@dataclass(frozen=True)
class _Surprise:
    """What the changes of entropy and KL need of n positions, float64; S types have counts."""

    entropy: Tensor
    """(n,): H(p)."""
    kl: Tensor
    """(n,): KL of p, conditioned on the S types, to f."""
    known: int
    """S."""
    share: Tensor
    """(n, 1): what p gives the S types."""
    known_row: Tensor
    """(n, d): the mean u under p conditioned, less that under p."""
    of_entropy: _Weighted
    """ℓ."""
    of_kl: _Weighted
    """κ, under p conditioned."""


def _surprise(at: PositionBlock, u: Unembedding, log_f: Tensor, softmax_rows: int) -> _Surprise:
    """ℓ and κ from logits in float64, `softmax_rows` positions at a time. log_f: (S,)."""
    known = len(log_f)
    weights = torch.zeros(2, *at.p.shape, device=at.p.device)
    parts = []
    for some in slices(len(at.p), softmax_rows):
        log_p = torch.log_softmax(u.logits(at.factors[0, some]), dim=1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(1, keepdim=True)
        share = p[:, :known].sum(1, keepdim=True)
        conditioned = p[:, :known] / share
        ratio = log_p[:, :known] - share.log() - log_f
        kl = (conditioned * ratio).sum(1, keepdim=True)
        found = [entropy[:, 0], kl[:, 0], share, _mean_rows(conditioned, u) - at.row[some]]
        for i, (probability, g) in enumerate(((p, log_p + entropy), (conditioned, ratio - kl))):
            weighted = probability * g
            weights[i, some, : g.shape[1]] = weighted
            found += [
                _mean_rows(weighted, u),
                (weighted * g).sum(1, keepdim=True).sqrt(),
                g.abs().amax(1, keepdim=True),
            ]
        parts.append(found)
    entropy, kl, share, row, *rest = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return _Surprise(entropy, kl, known, share, row, _Weighted(weights[0], *rest[:3]), _Weighted(weights[1], *rest[3:]))


def _mean_rows(weights: Tensor, u: Unembedding) -> Tensor:
    """Σ_v weights·u_v, (n, d), of weights (n, S) on the first S types."""
    result = torch.zeros(len(weights), len(u.mean), dtype=torch.float64, device=weights.device)
    for chunk, rows in u.chunks():
        mine = weights[:, chunk]
        result.addmm_(mine, rows[: mine.shape[1]])
    return result


def _changes(
    at: PositionBlock,
    of: NeuronBlock,
    u: Unembedding,
    surprise: _Surprise,
    a: Tensor,
    t: Tensor,
    log_f: Tensor,
    tolerance: float,
) -> tuple[Tensor, int]:
    """Changes of entropy and KL and their round-off, (3, n, f), and how many pairs took float64."""

    def mean_shift(row: Tensor) -> Tensor:
        """E[g·z] (n, f) of a g with E g = 0, row (n, d) being E[g·u]."""
        along = torch.stack([(factor * row).sum(1, keepdim=True) for factor in at.factors])
        return (a * along).sum(0) + t * (row @ of.scaled.T)

    largest = largest_shift(at, of, a, t)
    mean = t * (at.row @ of.scaled.T)
    sums = vocabulary_sums(
        at.p, surprise.of_entropy.weights, surprise.of_kl.weights, at.m, of.q, a, t, largest, surprise.known
    )
    excess, slope = sums[0].sum(0), sums[1].sum(0)
    change, error = _tilted(
        mean, excess, slope, mean_shift(surprise.of_entropy.row) + sums[2].sum(0), surprise.of_entropy, largest
    )
    kl_change, kl_error = _tilted(
        mean + mean_shift(surprise.known_row),
        sums[0, 0] / surprise.share,
        sums[1, 0] / surprise.share,
        mean_shift(surprise.of_kl.row) + sums[3].sum(0),
        surprise.of_kl,
        largest,
    )
    result = torch.stack([-change, kl_change, torch.maximum(error, kl_error)])
    again = (~(result[2] <= tolerance) | (largest > fused.LARGEST)).nonzero()
    if len(again):
        row, neuron = again.T
        result[:, row, neuron] = _directly(
            at, of, u, surprise, a[:, row, neuron], t[row, neuron], largest[row, neuron], row, neuron, log_f
        )
    return result, len(again)


def _tilted(
    mean: Tensor, excess: Tensor, slope: Tensor, moved: Tensor, g: _Weighted, largest: Tensor
) -> tuple[Tensor, Tensor]:
    """(E[g·e^z] + E[z·e^z])/Z − log Z and its round-off, (n, f).

    mean E z, excess E[e^z − 1 − z], slope E[z(e^z − 1)], moved E[g·(e^z − 1)].
    """
    z_of_e = mean + slope
    total = 1 + mean + excess
    value = (moved + z_of_e) / total - torch.log1p(mean + excess)
    size = ((1 + largest) * slope).sqrt()
    tilt = size + excess
    spread = torch.minimum(g.largest * tilt, g.sd * (largest.clamp(max=fused.LARGEST).exp() * slope).sqrt())
    shift = Z_ROUNDING * largest
    of_excess = shift * tilt + SUM_ROUNDING * excess
    of_slope = shift * (tilt + size + slope) + SUM_ROUNDING * slope
    of_moved = shift * spread + SUM_ROUNDING * g.largest * excess
    tilted = (moved + z_of_e).abs() / total
    error = EPSILON * (of_excess * (1 + tilted) + of_slope + of_moved) / total.clamp(min=0)
    return value, error + DOUBLE_ROUNDING * (1 + g.largest) * largest


def _directly(
    at: PositionBlock,
    of: NeuronBlock,
    u: Unembedding,
    surprise: _Surprise,
    a: Tensor,
    t: Tensor,
    largest: Tensor,
    row: Tensor,
    neuron: Tensor,
    log_f: Tensor,
) -> Tensor:
    """Changes of entropy and KL and their round-off of k pairs, (3, k), from both distributions in float64."""
    result = torch.empty(3, len(t), dtype=torch.float64, device=t.device)
    for some, z in fused.shifts(at.m, of.q, a, t, row, neuron):
        positions, place = row[some].unique(return_inverse=True)
        logits = u.logits(at.factors[0, positions])[place].add_(z)
        values = []
        for own, reference in ((logits, 0.0), (logits[:, : surprise.known], log_f)):
            log_p = torch.log_softmax(own, dim=1)
            p, g = log_p.exp(), log_p - reference
            mean = (p * g).sum(1)
            values.append((mean, (p * (g - mean[:, None]).abs()).sum(1)))
        (entropy, spread), (kl, kl_spread) = values
        result[0, some] = -entropy - surprise.entropy[row[some]]
        result[1, some] = kl - surprise.kl[row[some]]
        result[2, some] = Z_ROUNDING * EPSILON * largest[some] * torch.maximum(spread, kl_spread)
    return result


def vocabulary_sums(
    p: Tensor, first: Tensor, second: Tensor, m: Tensor, q: Tensor, a: Tensor, t: Tensor, largest: Tensor, known: int
) -> Tensor:
    """Σ_v of p·h, p·z(e^z − 1), first·h and second·h, h = e^z − 1 − z, for all n·f pairs; float64 (4, 2, n, f).

    Over the first `known` types, and over the others. p, first and second (n, V), m (D, n, V) and q (f, V) are
    float32; a (D, n, f), t (n, f) the coefficients of z = Σ_i a_i·m_i + t·q and `largest` (n, f) a bound of |z|. Pairs
    beyond `fused.LARGEST` are left 0. On the CPU the terms are float32, elsewhere float64.
    """
    tame = largest <= fused.LARGEST
    parts = [slice(0, known), slice(known, p.shape[1])]
    sums = torch.zeros(2, *t.shape, TERMS, dtype=torch.float64, device=t.device)
    if p.device.type == "cpu":
        # 2^-halvings·|z| ≤ 1/2
        halvings = torch.where(tame, torch.log2(largest.clamp(min=0.5)).add(1).ceil(), -1).to(torch.int8).numpy()

        # whole arrays, since a loop over the types is only vectorised where the compiler knows them to be contiguous
        arrays = [v.numpy() for v in (p, first, second, m, q, a.float().contiguous(), t.float().contiguous())]

        def run(start: int) -> None:
            for part, out in zip(parts, sums.numpy(), strict=True):
                tilted_sums(*arrays, halvings, out, start, min(start + ROWS, len(t)), part.start, part.stop)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(run, range(0, len(p), ROWS)))
    else:
        row, neuron = tame.nonzero().T
        for some, z in fused.shifts(m, q, a[:, row, neuron], t[row, neuron], row, neuron):
            tilt = torch.expm1(z)
            at, of, h = row[some], neuron[some], tilt - z
            for out, part in zip(sums, parts, strict=True):
                terms = ((p, h), (p, z * tilt), (first, h), (second, h))
                out[at, of] = torch.stack([(w[at, part] * v[:, part]).sum(1) for w, v in terms], dim=1)
    return sums.permute(3, 0, 1, 2)


POOL = 2
"""Neurons outside a group, as a multiple of its size, whose changes of confidence are computed for its null."""


POOL_DRAWS = 199


CONFIDENCE = 200
"""Apart from other random streams of a seed."""


def _pooled(group: Group, neurons: int, rng: np.random.Generator) -> Group:
    """The group with random sets from its members and a pool of POOL times as many others."""
    members = np.union1d(*group.members)
    outside = np.setdiff1d(np.arange(neurons), members)
    universe = np.sort(np.append(members, rng.permutation(outside)[: POOL * len(members)]))
    places = tuple(np.searchsorted(universe, own) for own in group.members)
    first, second = permuted_sets((places[0], places[1]), np.zeros(len(universe), dtype=np.int64), POOL_DRAWS, rng)
    return Group(
        group.name, group.members, {RANDOM: (universe[first], universe[second])}, group.own_share, group.overlap
    )


def _by_half(found: Confidence, rare: ClassConfidence, halves: np.ndarray, neurons: int) -> dict[str, list[np.ndarray]]:
    """By metric, for each half of the windows, mean change (F,); NaN for neurons that were not asked for."""
    half_of, counts = halves[_numpy(rare.window_ids)], _numpy(rare.window_n)
    result: dict[str, list[np.ndarray]] = {}
    for metric, sums in (("entropy_change", rare.window_entropy_change), ("kl_change", rare.window_kl_change)):
        result[metric] = []
        for half in (0, 1):
            own = half_of == half
            values = np.full(neurons, np.nan)
            if own.any():
                values[found.neurons] = _numpy(sums)[own].sum(0) / counts[own].sum()
            result[metric].append(values)
    return result


def _mean_of_sets(metric: str, values: list[np.ndarray], half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
    return {metric: values[half][sets].mean(1)}
