"""The change of loss under mean ablation, for every position and neuron, each with a proven interval.

The proof is of what follows the captured stream and activations. These are float32, and the forward pass that made
them errs itself, by up to 1.7e-6 nats a position on the bundled suite.

Ablation moves the logits by z (`logit_shift.py`: z_v = a·m_v + t·q_v), so that

    Δ_ni = loss(ablated) − loss = K(1) − z_y,   K(θ) = log E_{v∼p}[exp θz_v],   p = softmax(l), y the target,

at O(V) a pair instead of O(d·V). Constants in v cancel, so m is centred under p and q over v beforehand.

Second order. K is the cumulant function of z: K(0) = 0, K'(0) = μ = E_p z, K''(θ) is the variance of z under p
tilted by e^{θz}, and K''' its third central moment, so |K'''| ≤ R·K'' with R = max z − min z. Then K''(θ) lies
between s²e^{−Rθ} and s²e^{Rθ} (s² = Var_p z), and integrating twice

    μ + s²·g(−R) ≤ K(1) ≤ μ + s²·g(R),   g(R) = (e^R − 1 − R)/R².

R ≤ Σ|a|·range(m_n) + |t|·range(q_i). μ and s² need E_p q and E_p[m q], which are products with the
d-dimensional averages E_p u and E_p[m u], and E_p q², the one N×V by V×F product.

Exactly. K(1) = log(1 + μ + S) with S = E_p[e^z − 1 − z], summed over the whole vocabulary for the widest pairs,
until the errors left average at most the tolerance for every neuron in every class. mean |Δ| inherits the bound of
mean Δ, since ||x| − |y|| ≤ |x − y|. Tolerances hold for each block of positions, and hence for all.

Round-off. p, m and q are float32, each right to ε/2 of itself (ε = 2⁻²³); a, t, μ and z_y are float64. E_p[m u]
is a float32 product, and E_p q² one of float32 or, where the processor has it, bfloat16; their errors, the first by
E_p|m|‖u‖ ≤ √(E_p m²·E_p‖u‖²), enter s² before the bounds are taken. In S, the error of z is at most 2.5ε·max|z|, which
moves e^z − 1 − z by |e^z − 1| times as much, and E_p|e^z − 1| ≤ √(E_p z²) + S; e^z − 1 − z ≥ 0 itself is right to a
few ε, and so is its sum. An error of S moves K(1) by e^{−K(1)} as much: where that is large, or where types whose p
is 0 in float32 may count, log E_p e^z is summed in float64 from logits that err by (ε/2)·max|m|.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from rtdyn.analyses.influence import fused
from rtdyn.analyses.influence.block_sizes import block_sizes, slices
from rtdyn.analyses.influence.logit_shift import NeuronBlock, coefficients, neuron_blocks
from rtdyn.analyses.influence.position_block import PositionBlock, position_blocks
from rtdyn.analyses.influence.unembedding import Projection, Unembedding, unembedding
from rtdyn.capture.forward_pass import Capture
from rtdyn.errors import OverflowedError

EPSILON = torch.finfo(torch.float32).eps
PRODUCT_ROUNDING = {torch.float32: 2.0**-13, torch.bfloat16: 2.0**-6}
"""Relative error of an entry of a product over a lane of types, by the precision of its factors: 2048 sums of ε/2, or
three roundings to bfloat16, of 2⁻⁸ each: both factors and the result."""
TF32_ROUNDING = 2.0**-9
"""The same where CUDA may round float32 factors to TF32, by 2⁻¹¹ each."""
SUM_ROUNDING = 24.0
"""Error of S, terms included, in units of ε times itself."""
Z_ROUNDING = 2.5
"""Error of z in float32, in units of ε·max|z|."""
DOUBLE_ROUNDING = 2.0**-40
"""Error of μ − z_y in float64, in units of max|z|."""
PAIR_BYTES = 256
"""What a pair takes while its block is at work: about thirty float64 numbers."""


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
    """Pairs that needed more than the second order."""


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a block of n positions and one of f neurons; float64 (n, f)."""

    a: Tensor
    """(D, n, f)."""
    t: Tensor
    z_target: Tensor
    """z at the target."""
    mean: Tensor
    """μ = E_p z."""
    variance: Tensor
    """s² = Var_p z."""
    variance_error: Tensor
    """Round-off of s²."""
    spread: Tensor
    """R, a bound of max z − min z."""
    largest: Tensor
    """A bound of max |z|."""


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
    sizes = block_sizes(captured, memory_bytes // len(wanted), PAIR_BYTES)
    n, f = captured.activations.shape
    unembeddings = [unembedding(captured, sizes, one.projection) for one in wanted]
    for rows in slices(n, sizes.positions):
        positions = position_blocks(captured, unembeddings, rows, sizes)
        for neurons in slices(f, sizes.neurons):
            of_neurons = neuron_blocks(captured, unembeddings, neurons)
            yield tuple(
                delta_block(captured, one, u, at, of, sizes.lane)
                for one, u, at, of in zip(wanted, unembeddings, positions, of_neurons, strict=True)
            )


def delta_block(
    captured: Capture, wanted: Certified, u: Unembedding, at: PositionBlock, of: NeuronBlock, lane: int
) -> DeltaBlock:
    """Δ of one block. Raises InputError where the loss overflows."""
    assert isinstance(of.neurons, slice)
    pairs = _pairs(at, of, *coefficients(captured, at, of), lane)
    low, high = _second_order(pairs.mean, pairs.variance, pairs.variance_error, pairs.spread)
    delta, half_width = (low + high) / 2 - pairs.z_target, (high - low) / 2
    del low, high
    rounding = DOUBLE_ROUNDING * pairs.largest
    limits = [(m[at.rows], limit) for m, limit in zip(wanted.members, _limits(wanted, of), strict=True)]
    limits = [(member, limit) for member, limit in limits if member.any()]
    refined = 0
    while True:
        widest = _widest(half_width, rounding, limits)
        if len(widest) == 0:
            break
        row, neuron = widest.T
        delta[row, neuron], rounding[row, neuron] = _sum_exactly(at, of, u, pairs, row, neuron)
        half_width[row, neuron] = 0.0
        refined += len(widest)
    if not torch.isfinite(delta).all():
        raise OverflowedError("the change of loss under ablation overflows")
    return DeltaBlock(at.rows, of.neurons, delta, half_width, rounding, refined)


def _limits(wanted: Certified, of: NeuronBlock) -> list[Tensor]:
    """For each class the tolerance of these neurons, float64 (f,)."""
    if isinstance(wanted.tolerance, float | int):
        return [torch.full_like(of.q_range, wanted.tolerance)] * len(wanted.members)
    return [limit[of.neurons] for limit in wanted.tolerance]


def _pairs(at: PositionBlock, of: NeuronBlock, a: Tensor, t: Tensor, lane: int) -> _Pairs:
    """First and second moments of z."""
    precision = product_precision(t.device.type)
    p_q2 = torch.zeros_like(t)
    for types in slices(of.q.shape[1], lane):
        p_q2 += at.p[:, types].to(precision) @ of.q[:, types].square().to(precision).T
    p_q = at.row @ of.scaled.T
    rounding = _product_rounding(t.device.type, precision)
    variance_error = rounding * t.square() * p_q2
    variance = t.square() * (p_q2 - p_q.square())
    length = _product_rounding(t.device.type, torch.float32) * of.scaled.norm(dim=1)
    for i, a_i in enumerate(a):
        variance += 2 * a_i * t * (at.m_row[i] @ of.scaled.T)
        variance_error += 2 * a_i.abs() * t.abs() * (at.m_covariance[i, i] * at.square_norm).sqrt() * length
        for j, a_j in enumerate(a):
            variance += a_i * a_j * at.m_covariance[i, j]
    spread = t.abs() * of.q_range + (a.abs() * at.m_range).sum(0)
    return _Pairs(
        a=a,
        t=t,
        z_target=(a * at.m_target).sum(0) + t * (at.target_row @ of.scaled.T),
        mean=t * p_q,
        variance=variance.clamp_(min=0),
        variance_error=variance_error,
        spread=spread * (1 + 4 * EPSILON),
        largest=largest_shift(at, of, a, t),
    )


def largest_shift(at: PositionBlock, of: NeuronBlock, a: Tensor, t: Tensor) -> Tensor:
    """(n, f): no less than |z| of any type, float32's round-off of q and m included. a, t: of `coefficients`."""
    return (t.abs() * of.q_largest + (a.abs() * at.m_largest).sum(0)) * (1 + 4 * EPSILON)


@cache
def product_precision(device: str) -> torch.dtype:
    """bfloat16 on processors that multiply it natively, at several times the speed of float32; else float32."""
    if device != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return torch.float32
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def _product_rounding(device: str, precision: torch.dtype) -> float:
    if device == "cuda" and precision == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        return TF32_ROUNDING
    return PRODUCT_ROUNDING[precision]


def _second_order(mean: Tensor, variance: Tensor, error: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of K(1): mean + variance·g(∓spread), the variance known up to `error`; infinite where g overflows."""

    def g(r: Tensor) -> Tensor:
        near_zero = 0.5 + r / 6 + r.square() / 24
        return torch.where(r.abs() < 1e-3, near_zero, (torch.expm1(r) - r) / r.square())

    constant = spread == 0
    low = ((variance - error).clamp(min=0) * g(-spread)).masked_fill(constant, 0.0)
    high = ((variance + error) * g(spread)).nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(constant, 0.0)
    return mean + low, mean + high


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
    at: PositionBlock, of: NeuronBlock, u: Unembedding, pairs: _Pairs, row: Tensor, neuron: Tensor
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
