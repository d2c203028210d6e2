"""How ablation changes the model's confidence: entropy, and divergence from the unigram distribution (METHODS §2(c)).

Ablation moves the logits by z (`logit_shift.py`), so that p' ∝ p·e^z. Z is E_p e^z. ℓ = log p + H(p) has mean 0
under p, and κ is log p − log f less its mean. Then

    H(p') − H(p) = log Z − (E_p[ℓe^z] + E_p[z e^z])/Z,
    KL(p'‖f) − KL(p‖f) = (E_p[κe^z] + E_p[z e^z])/Z − log Z,

KL with p conditioned on the types that have counts (f is 0 elsewhere). First-order parts are float64 products with
d-dimensional averages. With h = e^z − 1 − z what is left are sums over the vocabulary, float32 in short lanes. Their
terms are p·h, p·z(e^z − 1), p·ℓ·h and p·κ·h.

Round-off: L is max|z|, Q is E_p[z(e^z − 1)] and S is E_p h. As E z² ≤ (1 + L)Q, E|e^z − 1| ≤ √((1 + L)Q) + S.
This times the error 2εL of z bounds that of S, and so on for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.influence import fused
from rtdyn.analyses.influence.ablation import MEMORY_BYTES
from rtdyn.analyses.influence.block_sizes import block_sizes, slices
from rtdyn.analyses.influence.capped import capped_logits, shift_level
from rtdyn.analyses.influence.logit_shift import NeuronBlock, coefficients, neuron_block
from rtdyn.analyses.influence.pairs import DOUBLE_ROUNDING, EPSILON, SUM_ROUNDING, Z_ROUNDING, largest_shift
from rtdyn.analyses.influence.position_block import PositionBlock, position_block
from rtdyn.analyses.influence.unembedding import Unembedding, unembedding
from rtdyn.analyses.mediation.surprise import Surprise, Weighted, surprise
from rtdyn.analyses.mediation.vocabulary_sums import vocabulary_sums
from rtdyn.analyses.statistics import Estimate, clusters, mean_estimate
from rtdyn.capture.forward_pass import Capture

PAIR_TOLERANCE = 1e-4
"""Round-off in nats beyond which a pair's change of entropy or KL is summed in float64."""
PAIR_BYTES = 512
"""What a pair takes while its changes are computed: about sixty float64 numbers."""


@dataclass(frozen=True)
class ClassConfidence:
    """What ablating each of k neurons does to the predictions at one class's positions; in nats, float64 (k,)."""

    n: int
    entropy: Estimate
    """Mean H(p) before ablation."""
    kl: Estimate
    """Mean KL(p‖f) before ablation, p conditioned on the types that have counts."""
    entropy_change: Tensor
    """mean H(p') − H(p)."""
    kl_change: Tensor
    """mean KL(p'‖f) − KL(p‖f)."""
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


@dataclass(frozen=True)
class _Shifts:
    """How ablating each of f neurons moves the logits at each of n positions, and what is compared."""

    at: PositionBlock
    of: NeuronBlock
    u: Unembedding
    a: Tensor
    """float64 (D, n, f), of `coefficients`."""
    t: Tensor
    """float64 (n, f)."""
    surprised: Surprise
    log_f: Tensor
    """float64 (S,): log unigram frequency of the types that have counts."""


def confidence(
    captured: Capture,
    counts: np.ndarray,
    neurons: np.ndarray,
    *,
    cluster: np.ndarray | None = None,
    tolerance: float = PAIR_TOLERANCE,
    memory_bytes: int = MEMORY_BYTES,
) -> Confidence:
    """Entropy and KL to the unigram distribution before and after ablating each of `neurons`.

    counts: (types,) occurrences, as for `unigram_direction`; f ∝ counts + 1. neurons: int64 (k,), distinct or not.
    cluster: int (windows,), the independent piece of text that each window is of, by default itself.
    tolerance: round-off in nats beyond which a pair is summed in float64. Costs O(V) for each pair of position and
    neuron. Raises ValueError for more counts than logits or a neuron that does not exist.
    """
    f, logits = len(captured.anatomy.output_rows), len(captured.anatomy.readout.unembedding)
    if len(counts) > logits:
        raise ValueError(f"{len(counts)} counts are more than the {logits} logits")
    if len(neurons) and (neurons.min() < 0 or neurons.max() >= f):
        raise ValueError(f"neurons must lie between 0 and {f - 1}")
    device, n = captured.residual.device, len(captured.residual)
    if cluster is None:
        cluster = np.arange(captured.positions.window.max(initial=0) + 1)
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
        surprised = surprise(at, u, log_f, sizes.softmax_rows)
        before[:, rows] = torch.stack([surprised.entropy, surprised.kl])
        for some in slices(len(neurons), sizes.neurons):
            of = neuron_block(captured, u, index[some])
            a, t = coefficients(captured, at, of)
            shifts = _Shifts(at, of, u, a, t, surprised, log_f)
            changes[:, rows, some], again = (
                _changes(shifts, tolerance) if u.cap is None else _changes_through_cap(shifts)
            )
            doubled += again
    classes = {c.name: _class(captured, c.name, before, changes, cluster) for c in captured.positions.classes}
    return Confidence(neurons, classes, doubled / max(1, n * len(neurons)))


def _class(captured: Capture, name: str, before: Tensor, changes: Tensor, cluster: np.ndarray) -> ClassConfidence:
    """Means over one class of before (2, N) and changes (3, N, k), the last of them round-off."""
    device = before.device
    member = torch.from_numpy(captured.positions.members(name)).to(device)
    windows = clusters(torch.from_numpy(captured.positions.window).to(device), member)
    n = int(member.sum())
    by_window = windows.indicator(member)
    pieces = clusters(torch.from_numpy(cluster[captured.positions.window]).to(device), member)
    sums = pieces.indicator(member) @ before[:, member].T
    entropy, kl = (mean_estimate(column, pieces.n, least=0.0) for column in sums.T)
    entropy_change, kl_change = (by_window @ v[member] for v in changes[:2])
    return ClassConfidence(
        n=n,
        entropy=entropy,
        kl=kl,
        entropy_change=entropy_change.sum(0) / n,
        kl_change=kl_change.sum(0) / n,
        error_bound=changes[2, member].mean(0),
        window_ids=windows.ids,
        window_n=windows.n,
        window_entropy_change=entropy_change,
        window_kl_change=kl_change,
    )


def _changes(shifts: _Shifts, tolerance: float) -> tuple[Tensor, int]:
    """Changes of entropy and KL and their round-off, (3, n, f), and how many pairs took float64."""
    at, of, a, t, surprised = shifts.at, shifts.of, shifts.a, shifts.t, shifts.surprised

    def mean_shift(row: Tensor) -> Tensor:
        """E[g·z] (n, f) of a g with E g = 0, row (n, d) being E[g·u]."""
        along = torch.stack([(factor * row).sum(1, keepdim=True) for factor in at.factors])
        return (a * along).sum(0) + t * (row @ of.scaled.T)

    largest = largest_shift(at, of, a, t)
    mean = t * (at.row @ of.scaled.T)
    sums = vocabulary_sums(
        at.p, surprised.of_entropy.weights, surprised.of_kl.weights, at.m, of.q, a, t, largest, surprised.known
    )
    excess, slope = sums[0].sum(0), sums[1].sum(0)
    change, error = _tilted(
        mean, excess, slope, mean_shift(surprised.of_entropy.row) + sums[2].sum(0), surprised.of_entropy, largest
    )
    kl_change, kl_error = _tilted(
        mean + mean_shift(surprised.known_row),
        sums[0, 0] / surprised.share,
        sums[1, 0] / surprised.share,
        mean_shift(surprised.of_kl.row) + sums[3].sum(0),
        surprised.of_kl,
        largest,
    )
    result = torch.stack([-change, kl_change, torch.maximum(error, kl_error)])
    again = (~(result[2] <= tolerance) | (largest > fused.LARGEST)).nonzero()
    if len(again):
        row, neuron = again.T
        result[:, row, neuron] = _directly(shifts, largest[row, neuron], row, neuron)
    return result, len(again)


def _changes_through_cap(shifts: _Shifts) -> tuple[Tensor, int]:
    """`_changes` where the logits are capped: every pair takes float64."""
    at, of, a, t = shifts.at, shifts.of, shifts.a, shifts.t
    level, largest = shift_level(at, of, a, t), largest_shift(at, of, a, t)
    result = torch.zeros(3, *t.shape, dtype=torch.float64, device=t.device)
    row, neuron = (largest + level.abs() > 0).nonzero().T
    of_pairs = a[:, row, neuron], t[row, neuron], level[row, neuron]
    largest = largest[row, neuron]
    for some, _, logits in capped_logits(at, of, shifts.u, *of_pairs, row, neuron):
        result[:, row[some], neuron[some]] = _of_distributions(logits, shifts, row[some], largest[some])
    return result, len(row)


def _tilted(
    mean: Tensor, excess: Tensor, slope: Tensor, moved: Tensor, g: Weighted, largest: Tensor
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


def _directly(shifts: _Shifts, largest: Tensor, row: Tensor, neuron: Tensor) -> Tensor:
    """Changes of entropy and KL and their round-off of k pairs, (3, k), from both distributions in float64.

    row and neuron (k,): where the pairs are; `largest` (k,): a bound of their |z|.
    """
    at, a, t = shifts.at, shifts.a[:, row, neuron], shifts.t[row, neuron]
    result = torch.empty(3, len(t), dtype=torch.float64, device=t.device)
    for some, z in fused.shifts(at.m, shifts.of.q, a, t, row, neuron):
        positions, place = row[some].unique(return_inverse=True)
        logits = shifts.u.logits(at.factors[0, positions])[place].add_(z)
        result[:, some] = _of_distributions(logits, shifts, row[some], largest[some])
    return result


def _of_distributions(logits: Tensor, shifts: _Shifts, row: Tensor, largest: Tensor) -> Tensor:
    """Changes of entropy and KL and their round-off (3, k), of k pairs by their logits after ablation (k, V).

    row (k,): their positions; `largest` (k,): a bound of the |z| that is float32.
    """
    surprised, values = shifts.surprised, []
    for logits_of, reference in ((logits, 0.0), (logits[:, : surprised.known], shifts.log_f)):
        log_p = torch.log_softmax(logits_of, dim=1)
        p, g = log_p.exp(), log_p - reference
        mean = (p * g).sum(1)
        values.append((mean, (p * (g - mean[:, None]).abs()).sum(1)))
    (entropy, spread), (kl, kl_spread) = values
    return torch.stack(
        [
            -entropy - surprised.entropy[row],
            kl - surprised.kl[row],
            Z_ROUNDING * EPSILON * largest * torch.maximum(spread, kl_spread),
        ]
    )
