"""The change of loss under mean ablation, for every position and neuron, each with a proven interval.

The proof is of what follows the captured stream and activations. These are float32, and the forward pass that made
them errs itself, by up to 1.7e-6 nats a position on the bundled suite.

Ablation moves the logits by z (`logit_shift.py`: z_v = a·m_v + t·q_v), so that

    Δ_ni = loss(ablated) − loss = K(1) − z_y,   K(θ) = log E_{v∼p}[exp θz_v],   p = softmax(l), y the target,

at O(V) a pair instead of O(d·V). Constants in v cancel, so m is centred under p and q over v beforehand. `capped.py`
has the same where the logits are capped.

Second order. K is the cumulant function of z: K(0) = 0, and K'(0) = μ = E_p z. K''(θ) is the variance of z under p
tilted by e^{θz}, and K''' its third central moment. So |K'''| ≤ R·K'' with R = max z − min z. Then K''(θ) lies between
s²e^{−Rθ} and s²e^{Rθ} (s² = Var_p z), and integrating twice

    μ + s²·g(−R) ≤ K(1) ≤ μ + s²·g(R),   g(R) = (e^R − 1 − R)/R².

R ≤ Σ|a|·range(m_n) + |t|·range(q_i). μ and s² need E_p q and E_p[m q], which are products with the d-dimensional
averages E_p u and E_p[m u]. They also need E_p q², the one N×V by V×F product.

By likely types. K(1) = log(1 + μ + S) with S = E_p[e^z − 1 − z]. e^z − 1 − z = z²·g(z), and g grows with z. S and
E z² = s² + μ² may be summed over some types alone. Then what the others add lies between M·g(−L) and M·g(L). M is what
they add to E z², the whole less the part summed, and L = max|z|. The likely types (`likely.py`) are few and hold most
of E z². So the widest pairs' intervals become many times narrower at a small part of the cost of S.

Exactly. S is summed over the whole vocabulary for what then are the widest pairs. That goes on until the errors left
average at most the tolerance for every neuron in every class. mean |Δ| inherits the bound of mean Δ, since
||x| − |y|| ≤ |x − y|. Tolerances hold for each block of positions, and hence for all.

Round-off. p, m and q are float32, each right to ε/2 of itself (ε = 2⁻²³); a, t, μ and z_y are float64. E_p[m u] is a
float32 product, and E_p q² one of float32 or, where the processor has it, bfloat16. Their errors enter s² before the
bounds are taken. The first is by E_p|m|‖u‖ ≤ √(E_p m²·E_p‖u‖²). In S, the error of z is at most 2.5ε·max|z|. It moves
e^z − 1 − z by |e^z − 1| times as much, and E_p|e^z − 1| ≤ √(E_p z²) + S. e^z − 1 − z ≥ 0 itself is right to a few ε,
and so is its sum. The sum of p·z² errs by 2√(E_p z²) times the error of z, and by a few ε of itself. An error of S
moves K(1) by e^{−K(1)} as much. Where that is large, and where types whose p is 0 in float32 may count, log E_p e^z is
summed in float64. Its logits err by (ε/2)·max|m|.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rtdyn.analyses.influence import capped, fused
from rtdyn.analyses.influence.block_sizes import block_sizes, slices
from rtdyn.analyses.influence.likely import Likely, sums_of_likely
from rtdyn.analyses.influence.logit_shift import NeuronBlock, coefficients, neuron_blocks
from rtdyn.analyses.influence.pairs import DOUBLE_ROUNDING, EPSILON, SUM_ROUNDING, Z_ROUNDING, Pairs, moments
from rtdyn.analyses.influence.position_block import PositionBlock, position_blocks
from rtdyn.analyses.influence.unembedding import Projection, Unembedding, unembedding
from rtdyn.capture.forward_pass import Capture
from rtdyn.errors import OverflowedError

PAIR_BYTES = 256
"""What a pair takes while its block is at work: about thirty float64 numbers."""
CAPPED_PAIR_BYTES = 400
"""The same where the logits are capped: about fifty."""

UNSUMMED_WIDTH = 0.25
"""Half width, as a share of a class mean's tolerance, up to which a pair's likely types need not be summed."""
NARROWED, LEAST_TOGETHER = 4, 4096
"""Parts of a block's pairs that are summed over likely types one after the other, and pairs of one at least. A pair of
these takes as much again as PAIR_BYTES meanwhile."""


@dataclass(frozen=True)
class DeltaBlock:
    """Δ of some measured positions for some neurons."""

    rows: slice
    neurons: slice
    delta: Tensor
    """float64 (rows, neurons), nats: the middle of each pair's interval."""
    half_width: Tensor
    """float64, same shape: what the bounds leave open; 0 for pairs summed exactly."""
    rounding: Tensor
    """float64, same shape: what float32 arithmetic may have added."""
    refined: int
    """Pairs that were summed over the whole vocabulary."""


@dataclass(frozen=True)
class Certified:
    """Class means of Δ, and how exact they are to be."""

    members: Sequence[Tensor]
    """bool (N,) of each class."""
    tolerance: float | Sequence[Tensor]
    """Nats: one number, or for each class float64 (F,), one for each neuron."""
    projection: Projection | None = None
    """What is done to the shift of the logits before the loss is taken."""


def delta_blocks(
    captured: Capture,
    members: list[Tensor],
    tolerance: float | list[Tensor],
    memory_bytes: int,
    projection: Projection | None = None,
) -> Iterator[DeltaBlock]:
    """Δ of all measured positions, block by block, each class mean certified; arguments as `Certified` has them.

    members: bool (N,) for each class. Where round-off alone exceeds the tolerance, everything is summed and the bounds
    say so. Arrays take about `memory_bytes` beside model and capture. Raises InputError where the loss overflows.
    """
    for (block,) in delta_blocks_together(captured, [Certified(members, tolerance, projection)], memory_bytes):
        yield block


def delta_blocks_together(
    captured: Capture, wanted: Sequence[Certified], memory_bytes: int
) -> Iterator[tuple[DeltaBlock, ...]]:
    """Block by block what `delta_blocks` gives for each of the wanted, whose logits take one product of the neurons."""
    # through a cap no projection of the shift is linear, so that one unembedding serves all
    linear = captured.anatomy.readout.cap is None
    sizes = block_sizes(captured, memory_bytes // len(wanted), PAIR_BYTES if linear else CAPPED_PAIR_BYTES)
    n, f = captured.activations.shape
    projections = [one.projection for one in wanted] if linear else [None]
    unembeddings = [unembedding(captured, sizes, by) for by in projections]
    for rows in slices(n, sizes.positions):
        positions = position_blocks(captured, unembeddings, rows, sizes)
        for neurons in slices(f, sizes.neurons):
            blocks = zip(unembeddings, positions, neuron_blocks(captured, unembeddings, neurons), strict=True)
            each = blocks if linear else list(blocks) * len(wanted)
            yield tuple(
                delta_block(captured, one, u, at, of, sizes.lane) for one, (u, at, of) in zip(wanted, each, strict=True)
            )


def delta_block(
    captured: Capture, wanted: Certified, u: Unembedding, at: PositionBlock, of: NeuronBlock, lane: int
) -> DeltaBlock:
    """Δ of one block. Raises InputError where the loss overflows."""
    assert isinstance(of.neurons, slice)
    pairs = moments(at, of, *coefficients(captured, at, of), lane)
    (delta, half_width, rounding), exactly = _bounds(wanted, u, at, of, pairs, lane)
    limits = [(m[at.rows], limit) for m, limit in zip(wanted.members, _limits(wanted, of), strict=True)]
    limits = [(member, limit) for member, limit in limits if member.any()]
    together = max(LEAST_TOGETHER, delta.numel() // NARROWED)
    for likely in at.likely:
        for row, neuron in _wide(half_width, rounding, limits).T.split(together, dim=1):
            _narrow((delta, half_width, rounding), likely, of, pairs, row, neuron)
    refined = 0
    while True:
        widest = _widest(half_width, rounding, limits)
        if len(widest) == 0:
            break
        row, neuron = widest.T
        delta[row, neuron], rounding[row, neuron] = exactly(row, neuron)
        half_width[row, neuron] = 0.0
        refined += len(widest)
    if not torch.isfinite(delta).all():
        raise OverflowedError("the change of loss under ablation overflows")
    return DeltaBlock(at.rows, of.neurons, delta, half_width, rounding, refined)


Exactly = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Δ and its round-off (k,) of the pairs at rows and neurons (k,), from sums over the whole vocabulary."""


def _bounds(
    wanted: Certified, u: Unembedding, at: PositionBlock, of: NeuronBlock, pairs: Pairs, lane: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Exactly]:
    """Δ to second order, its half width and its round-off, (n, f) each; and what sums a pair exactly."""
    if u.cap is None:
        low, high = _second_order(pairs.mean, pairs.variance, pairs.variance_error, pairs.spread)
        bounds = (low + high) / 2 - pairs.z_target, (high - low) / 2, DOUBLE_ROUNDING * pairs.largest
        return bounds, partial(_sum_exactly, at, of, u, pairs)
    through = capped.capped_pairs(at, of, pairs, lane)
    if wanted.projection is None:
        return capped.second_order(through, u.cap), partial(capped.sum_exactly, at, of, u, through)
    nothing = torch.zeros_like(pairs.t)
    unknown = nothing, torch.where(through.largest > 0, torch.inf, nothing), nothing.clone()
    return unknown, partial(capped.sum_frozen, at, of, u, through, wanted.projection)


def _limits(wanted: Certified, of: NeuronBlock) -> list[Tensor]:
    """For each class the tolerance of these neurons, float64 (f,)."""
    if isinstance(wanted.tolerance, float | int):
        return [torch.full_like(of.q_range, wanted.tolerance)] * len(wanted.members)
    return [limit[of.neurons] for limit in wanted.tolerance]


def _second_order(mean: Tensor, variance: Tensor, error: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of K(1): mean + variance·g(∓spread), the variance known up to `error`; infinite where g overflows."""

    constant = spread == 0
    low = ((variance - error).clamp(min=0) * _g(-spread)).masked_fill(constant, 0.0)
    high = ((variance + error) * _g(spread)).nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(constant, 0.0)
    return mean + low, mean + high


def _g(r: Tensor) -> Tensor:
    """(e^r − 1 − r)/r²."""
    near_zero = 0.5 + r / 6 + r.square() / 24
    return torch.where(r.abs() < 1e-3, near_zero, (torch.expm1(r) - r) / r.square())


def _narrow(
    bounds: tuple[Tensor, Tensor, Tensor], likely: Likely, of: NeuronBlock, pairs: Pairs, row: Tensor, neuron: Tensor
) -> None:
    """Puts what the likely types of the pairs at row and neuron (k,) say into `_bounds`, where it says more."""
    tame = pairs.largest[row, neuron] <= fused.LARGEST
    row, neuron = row[tame], neuron[tame]
    mean, largest, variance_error = (v[row, neuron] for v in (pairs.mean, pairs.largest, pairs.variance_error))
    excess, square = sums_of_likely(likely, of.q, pairs.a[:, row, neuron], pairs.t[row, neuron], row, neuron)
    known = pairs.variance[row, neuron] + mean.square()
    size, of_shift = (known + variance_error).sqrt(), Z_ROUNDING * largest
    error = variance_error + EPSILON * (2 * of_shift * size + SUM_ROUNDING * square)
    others = known - square
    low = mean + excess + (others - error).clamp(min=0) * _g(-largest)
    high = mean + excess + (others + error).clamp(min=0) * _g(largest)
    low_log, high_log = torch.log1p(low), torch.log1p(high)
    half_width = (high_log - low_log) / 2
    of_excess = EPSILON * (of_shift * (size + excess) + SUM_ROUNDING * excess)
    # no less than what log(1 + low) falls by where low falls by as much
    rounding = of_excess / (1 + low - of_excess) + DOUBLE_ROUNDING * largest
    delta = (low_log + high_log) / 2 - pairs.z_target[row, neuron]
    before = bounds[1][row, neuron] + bounds[2][row, neuron]
    # not where the lower bound of E e^z is not above 0
    better = (1 + low > of_excess) & (half_width + rounding < before)
    for of_all, new in zip(bounds, (delta, half_width, rounding), strict=True):
        of_all[row[better], neuron[better]] = new[better]


def _wide(half_width: Tensor, rounding: Tensor, limits: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(k, 2) row and neuron of the pairs that matter where a class's mean error exceeds its limit (f,)."""
    chosen = torch.zeros_like(half_width, dtype=torch.bool)
    for member, limit in limits:
        widths = half_width[member]
        over = widths.sum(0) + rounding[member].sum(0) > limit * len(widths)
        chosen[member] |= (widths > UNSUMMED_WIDTH * limit) & over
    return chosen.nonzero()


def _widest(half_width: Tensor, rounding: Tensor, limits: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(k, 2) row and neuron of the fewest pairs whose removal brings every class's mean error within its limit (f,)."""
    chosen = torch.zeros_like(half_width, dtype=torch.bool)
    for member, limit in limits:
        left = limit * member.sum() - rounding[member].sum(0)
        wide = (half_width[member].sum(0) > left).nonzero()[:, 0]
        ascending, order = half_width[member][:, wide].sort(dim=0)
        over = (ascending.cumsum(0) > left[wide].clamp(min=0)) & (ascending > 0)
        columns = torch.zeros_like(over).scatter(0, order, over)
        chosen[member.nonzero(), wide] |= columns
    return chosen.nonzero()


def _sum_exactly(
    at: PositionBlock, of: NeuronBlock, u: Unembedding, pairs: Pairs, row: Tensor, neuron: Tensor
) -> tuple[Tensor, Tensor]:
    """Δ of k pairs from sums over the whole vocabulary, and its round-off; both (k,)."""
    a, t = pairs.a[:, row, neuron], pairs.t[row, neuron]
    mean, largest = pairs.mean[row, neuron], pairs.largest[row, neuron]
    k_1, rounding = torch.zeros_like(mean), torch.full_like(mean, torch.inf)
    tame = (largest <= fused.LARGEST).nonzero()[:, 0]
    row_, neuron_, mean_ = row[tame], neuron[tame], mean[tame]
    excess = fused.exponential_excess(at.p, at.m, of.q, a[:, tame], t[tame], row_, neuron_)
    square = pairs.variance[row_, neuron_] + pairs.variance_error[row_, neuron_] + mean_.square()
    error = Z_ROUNDING * largest[tame] * (square.sqrt() + excess) + SUM_ROUNDING * excess
    k_1[tame] = torch.log1p(mean_ + excess)
    rounding[tame] = EPSILON * error / (1 + mean_ + excess).clamp(min=0)
    of_log_sum = EPSILON * (1 + largest + at.m_largest[0, row, 0])
    again = (~(rounding <= of_log_sum)).nonzero()[:, 0]
    k_1[again] = _log_sum(at, of, u, a[:, again], t[again], row[again], neuron[again])
    rounding[again] = of_log_sum[again]
    return k_1 - pairs.z_target[row, neuron], rounding + DOUBLE_ROUNDING * largest


def _log_sum(
    at: PositionBlock, of: NeuronBlock, u: Unembedding, a: Tensor, t: Tensor, row: Tensor, neuron: Tensor
) -> Tensor:
    """log E_p e^z of k pairs in float64 (k,), from the logits, of which none underflows."""
    result = torch.empty_like(t)
    for some, z in fused.shifts(at.m, of.q, a, t, row, neuron):
        # a projected m is no longer the logits less b
        logits = at.m[0, row[some]] + u.fixed if u.projection is None else u.logits(at.factors[0, row[some]])
        result[some] = torch.logsumexp(logits.add_(z), dim=1) - at.log_total[row[some], 0]
    return result
