"""The change of loss under mean ablation where the logits are capped, each with a proven interval.

A cap makes g(l) = c·tanh(l/c) of every logit l. So a shift z moves what the softmax is taken of by
h_v = g(l_v + z_v) − g(l_v). With p = softmax(g(l)) and y the target

    Δ = K(1) − h_y,   K(θ) = log E_p exp h(θ),   h(θ) = g(l + θz) − g(l).

A constant added to z counts: with m and q centred, z = k + Σ_i a_i·m_i + t·q, k being what was taken off.

Second order. With T = tanh(l/c) and S = 1 − T², under p tilted by e^{h(θ)},

    K'(0) = E[S·z],   K''(0) = E[(S² − 2TS/c)·z²] − (E[S·z])²,   K''' = κ₃(h') + 3·Cov(h', h'') + E[h'''].

Let |z| ≤ L, r = max z − min z and 1 − g' ≤ D = tanh²((max|l| + L)/c). As h'(θ) = g'(l + θz)·z with 0 < g' ≤ 1, it
varies from type to type by at most R. R is the less of max(r, L) and r + 2DL, and h(θ) varies by at most θR. So a mean
under the tilted p of what is not negative is at most e^{θR} times that under p. With |g''| ≤ G₂ = 4/(3√3·c) and
|g'''| ≤ G₃ = 2/c²,

    sd(h'(θ)) ≤ e^{θR/2}·B,   B = √Var_p(S·z) + G₂L·√(E z²),   |h''| ≤ G₂z²,   |h'''| ≤ G₃|z|³,
    |K'''(θ)| ≤ e^{θR}·(R·B² + 3·G₂L·B·√(E z²) + G₃L·E z²),

and |K(1) − K'(0) − K''(0)/2| ≤ ∫(1 − θ)²/2·|K'''(θ)| dθ is at most the bracket times (e^R − 1 − R − R²/2)/R³.
Var_p(S·z) is at most K''(0) + G₂·E z², and at most E z². All of it takes the products that pairs without a cap take, by
other weights, and one N×V by V×F product more. As c grows, the bounds become those of `certified.py` to leading order.

Exactly. K(1) = log(1 + K'(0) + X + Y), X = E_p[e^h − 1 − h], Y = E_p[h − S·z], summed over the vocabulary. With x = z/c
and τ = tanh x,

    h = cSτ/(1 + Tτ),   h − S·z = cS(τ − x − Txτ)/(1 + Tτ),

and neither loses digits where |x| ≤ ½.

Round-off, in units of ε = 2⁻²³. z errs by at most 4L in float32. e^h − 1 − S·z errs by |e^h − 1| + G₂|z| times that,
where E|e^h − 1| ≤ √(E z²) + X. h is right to 8 of itself, which moves e^h − 1 − h by 8L|e^h − 1|. τ − x − Txτ errs by
at most 16 of |x|³/3 + |T|x². Where |x| ≤ ½, 1 + Tτ ≥ 0.53 and S(|x|/3 + |T|) ≤ 0.56. So, with the error of its sum, Y
errs by at most 48·E z²/c. X errs by 24·X for its sum. Pairs with |z| beyond c/2 or `fused.LARGEST` are summed in
float64 from logits made anew of the stream. There the error of z alone counts, twice: in K(1) and at the target.

With a projection (`Projection`) the loss is that of the logits after the cap. h is centred over the vocabulary, and its
part along the direction is taken back. That is not linear in z, so that every pair is summed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence import fused
from rtdyn.analyses.influence.bend import CURVATURE, THIRD, Bend
from rtdyn.analyses.influence.block_sizes import slices
from rtdyn.analyses.influence.logit_shift import NeuronBlock
from rtdyn.analyses.influence.pairs import DOUBLE_ROUNDING, EPSILON, SUM_ROUNDING, Pairs, product_precision
from rtdyn.analyses.influence.position_block import PositionBlock
from rtdyn.analyses.influence.unembedding import Projection, Unembedding

SHIFT_ROUNDING = 12.0
"""Error of z and of h, in units of ε·L."""
BENT_ROUNDING = 48.0
"""Error of Y, in units of ε·E z²/c."""
WEIGHT_ROUNDING = 1.05
"""What the weights' own round-off adds to that of products by them, as a factor."""
REACH = 0.5
"""|z|/c up to which sums are float32."""


@dataclass(frozen=True)
class CappedPairs:
    """All pairs of a block of n positions and one of f neurons; float64 (n, f)."""

    pairs: Pairs
    """Of z without k."""
    level: Tensor
    """k."""
    first: Tensor
    """μ = E_p[S·z]."""
    curvature: Tensor
    """K''(0)."""
    curvature_error: Tensor
    """Round-off of it."""
    square: Tensor
    """No less than E_p z²."""
    largest: Tensor
    """L, no less than |z| of any type."""
    spread: Tensor
    """R."""
    target: Tensor
    """h at the target."""


def capped_pairs(at: PositionBlock, of: NeuronBlock, pairs: Pairs, lane: int) -> CappedPairs:
    """First and second derivatives of K. pairs: moments of z, as it is without a cap."""
    bend, a, t = _bend(at), pairs.a, pairs.t
    precision = product_precision(t.device.type)
    q_square = torch.zeros_like(t)
    for types in slices(of.q.shape[1], lane):
        weights = bend.second_weights(at.p, types)
        q_square += weights.to(precision) @ of.q[:, types].square().to(precision).T
    level = shift_level(at, of, a, t)
    first, second = ((a * w.m).sum(0) + t * (w.row @ of.scaled.T) for w in (bend.first, bend.second))
    # k apart, whose squares nearly cancel
    curvature = level.square() * (bend.second.total - bend.first.total.square())
    curvature += 2 * level * (second - bend.first.total * first) + t.square() * q_square - first.square()
    for i, a_i in enumerate(a):
        curvature += 2 * a_i * t * (bend.second_m_row[i] @ of.scaled.T)
        for j, a_j in enumerate(a):
            curvature += a_i * a_j * bend.second_products[i, j]
    z_target = level + pairs.z_target
    before, after = (bend.cap * torch.tanh(logit / bend.cap) for logit in (bend.target, bend.target + z_target))
    square = pairs.variance + pairs.variance_error + (level + pairs.mean).square()
    largest = pairs.largest + level.abs() * (1 + EPSILON)
    bent = 2 * torch.tanh((bend.largest + largest) / bend.cap).square() * largest
    return CappedPairs(
        pairs=pairs,
        level=level,
        first=level * bend.first.total + first,
        curvature=curvature,
        curvature_error=WEIGHT_ROUNDING * (1 + CURVATURE / bend.cap) * pairs.variance_error,
        square=square,
        largest=largest,
        spread=torch.minimum(torch.maximum(pairs.spread, largest), pairs.spread + bent),
        target=after - before,
    )


def shift_level(at: PositionBlock, of: NeuronBlock, a: Tensor, t: Tensor) -> Tensor:
    """k, float64 (n, f). a, t: of `coefficients`."""
    return (a * _bend(at).level).sum(0) + t * of.level


def second_order(capped: CappedPairs, cap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Δ, the half width of its interval and its round-off, each (n, f); the width is infinite where e^R overflows."""
    spread, bends = capped.spread, CURVATURE / cap * capped.largest
    root = capped.square.sqrt()
    variance = capped.curvature + capped.curvature_error + CURVATURE / cap * capped.square
    sd = torch.minimum(variance.clamp(min=0), capped.square).sqrt() + bends * root
    third = spread * sd.square() + 3 * bends * sd * root + THIRD / cap**2 * capped.largest * capped.square
    width = third * _third_integral(spread) + capped.curvature_error / 2
    still = capped.largest == 0
    half_width = width.nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(still, 0.0)
    delta = capped.first + capped.curvature / 2 - capped.target
    return delta, half_width, DOUBLE_ROUNDING * capped.largest * (1 + capped.largest)


def _third_integral(r: Tensor) -> Tensor:
    """∫₀¹ (1 − θ)²/2·e^{θr} dθ."""
    near_zero = 1 / 6 + r / 24 + r.square() / 120 + r.pow(3) / 720
    # a billionth more than its own round-off
    return (1 + 1e-9) * torch.where(r < 1e-2, near_zero, (torch.expm1(r) - r - r.square() / 2) / r.pow(3))


def sum_exactly(
    at: PositionBlock, of: NeuronBlock, u: Unembedding, capped: CappedPairs, row: Tensor, neuron: Tensor
) -> tuple[Tensor, Tensor]:
    """Δ of k pairs from sums over the whole vocabulary, and its round-off; both (k,)."""
    bend = _bend(at)
    largest = capped.largest[row, neuron]
    delta, rounding = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    tame = (largest <= min(fused.LARGEST, REACH * bend.cap)).nonzero()[:, 0]
    row_, neuron_ = row[tame], neuron[tame]
    a, t = capped.pairs.a[:, row_, neuron_], capped.pairs.t[row_, neuron_]
    level, first = capped.level[row_, neuron_], capped.first[row_, neuron_]
    excess, bent = fused.capped_excess(
        at.p, at.m, of.q, (bend.tangent, bend.slope, bend.cap), a, t, level, row_, neuron_
    )
    square, reach = capped.square[row_, neuron_], largest[tame]
    shift = (1 + CURVATURE / bend.cap) * square.sqrt() + excess
    error = SHIFT_ROUNDING * reach * shift + SUM_ROUNDING * excess + BENT_ROUNDING / bend.cap * square
    total = first + excess + bent
    delta[tame] = torch.log1p(total) - capped.target[row_, neuron_]
    rounding[tame] = EPSILON * error / (1 + total).clamp(min=0)
    # as far as pairs without a cap may err, since float64 costs thirty times as much
    again = (~(rounding <= EPSILON * (1 + largest + at.m_largest[0, row, 0]))).nonzero()[:, 0]
    delta[again], rounding[again] = sum_in_double(at, of, u, capped, None, row[again], neuron[again])
    return delta, rounding + DOUBLE_ROUNDING * largest * (1 + largest)


def sum_in_double(
    at: PositionBlock,
    of: NeuronBlock,
    u: Unembedding,
    capped: CappedPairs,
    projection: Projection | None,
    row: Tensor,
    neuron: Tensor,
) -> tuple[Tensor, Tensor]:
    """Δ of k pairs from float64 sums over the vocabulary, and its round-off; both (k,)."""
    delta = torch.empty(len(row), dtype=torch.float64, device=row.device)
    a, t, level = (v[..., row, neuron] for v in (capped.pairs.a, capped.pairs.t, capped.level))
    for some, before, after in capped_logits(at, of, u, a, t, level, row, neuron):
        moved = after.sub_(before)
        if projection is not None:
            moved = _projected(moved, projection)
        of_target = moved.gather(1, _bend(at).targets[row[some], None])[:, 0]
        delta[some] = torch.logsumexp(moved.add_(before), dim=1) - torch.logsumexp(before, dim=1) - of_target
    return delta, _double_rounding(capped, projection, row, neuron)


def sum_frozen(
    at: PositionBlock,
    of: NeuronBlock,
    u: Unembedding,
    capped: CappedPairs,
    projection: Projection,
    row: Tensor,
    neuron: Tensor,
) -> tuple[Tensor, Tensor]:
    """`sum_in_double` of k pairs with a projection, in one pass through memory where there is a loop for it; (k,)."""
    if at.p.device.type != "cpu":
        return sum_in_double(at, of, u, capped, projection, row, neuron)
    kept = torch.ones_like(projection.direction) if projection.kept is None else projection.kept
    sums = torch.empty(len(row), 3, dtype=torch.float64)
    for position in row.unique():
        logits = u.before_cap(at.factors[0, position[None]])
        before = u.capped(logits.clone())
        mine = (row == position).nonzero()[:, 0]
        a, t, level = (v[..., position, neuron[mine]] for v in (capped.pairs.a, capped.pairs.t, capped.level))
        rows = logits[0], before[0], torch.softmax(before, dim=1)[0], at.m[:, position].contiguous()
        vectors = kept, projection.direction
        sums[mine] = fused.frozen(*rows, of.q, *vectors, _bend(at).cap, a, t, level, neuron[mine])
    total, mean, part = sums.T
    target = _bend(at).targets[row]
    of_target = kept[target] * (capped.target[row, neuron] - mean) - part * projection.direction[target]
    return total.log() - of_target, _double_rounding(capped, projection, row, neuron)


def _double_rounding(capped: CappedPairs, projection: Projection | None, row: Tensor, neuron: Tensor) -> Tensor:
    """(k,): what the error of z in float32 makes of a sum in float64."""
    factor = 2.0
    if projection is not None:
        size = projection.direction.abs()
        factor = 4 * float(1 + size.sum() * size.max())
    of_z = EPSILON * capped.pairs.largest[row, neuron]
    return factor * (of_z + DOUBLE_ROUNDING * (1 + capped.largest[row, neuron]))


def capped_logits(
    at: PositionBlock,
    of: NeuronBlock,
    u: Unembedding,
    a: Tensor,
    t: Tensor,
    level: Tensor,
    row: Tensor,
    neuron: Tensor,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of some of k pairs of one position at a time: which, and the capped logits before (1, V) and after (·, V).

    float64, of which the shift alone has the round-off of float32. a (D, k), t and level (k,), row and neuron (k,):
    of the pairs.
    """
    for position in row.unique():
        logits = u.before_cap(at.factors[0, position[None]])
        before = u.capped(logits.clone())
        mine = (row == position).nonzero()[:, 0]
        for some, z in fused.shifts(at.m, of.q, a[:, mine], t[mine], row[mine], neuron[mine]):
            pairs = mine[some]
            yield pairs, before, u.capped(z.add_(level[pairs, None]).add_(logits))


def _projected(moved: Tensor, projection: Projection) -> Tensor:
    """moved (k, V), centred over the vocabulary and without its part along the direction; what is not kept is 0."""
    moved -= moved.mean(1, keepdim=True)
    if projection.kept is not None:
        moved *= projection.kept
    return moved.addr_(moved @ projection.direction, projection.direction, alpha=-1)


def _bend(at: PositionBlock) -> Bend:
    assert at.bend is not None
    return at.bend
