"""The change of loss under mean ablation, for every position and neuron, each with a proven interval.

Replacing neuron i's activation a_ni by its mean ā_i moves the final residual stream r_n by c·w_i with
c = ā_i − a_ni, and only the final norm and the unembedding follow. With x = r − mean(r), w̃ = w − mean(w),
σ² = ‖x‖²/d + ε and δ = (2c⟨x,w̃⟩ + c²‖w̃‖²)/d, the ablated norm is σ' = √(σ² + δ), and every logit moves by

    z_v = a·m_v + t·q_v,   a = −δ/(σ'(σ + σ')),   t = c/σ',   m_v = l_v − b_v,   q_v = ⟨γ∘w̃, u_v⟩

where b_v = ⟨β, u_v⟩ + bias_v is the part of logit l_v that the norm does not scale. Hence the exact change

    Δ_ni = loss(ablated) − loss = K(1) − z_y,   K(θ) = log E_{v∼p}[exp θz_v],   p = softmax(l), y the target,

at O(V) a pair instead of O(d·V). Constants in v cancel, so m is centred under p and q over v beforehand.

Second order. K is the cumulant function of z: K(0) = 0, K'(0) = μ = E_p z, K''(θ) is the variance of z under p
tilted by e^{θz}, and K''' its third central moment, so |K'''| ≤ R·K'' with R = max z − min z. Then K''(θ) lies
between s²e^{−Rθ} and s²e^{Rθ} (s² = Var_p z), and integrating twice

    μ + s²·g(−R) ≤ K(1) ≤ μ + s²·g(R),   g(R) = (e^R − 1 − R)/R².

R ≤ |a|·range(m_n) + |t|·range(q_i). μ and s² need E_p q and E_p[m q], which are products with the
d-dimensional averages p·U and (p∘m)·U, and E_p q², the one N×V by V×F product.

Top of the vocabulary. With S the most likely types and π the mass of the rest, E_p e^z = Σ_S p e^z + π·e^{K_T(1)},
where K_T belongs to p conditioned on the rest; its mean and variance are what S leaves of E_p z and E_p z², and
the same bound holds for it, π times as wide.

Exactly. What is still too wide is summed over the whole vocabulary.

The widest pairs go on to the next stage, until the errors left average at most the tolerance for every neuron in
every class. mean |Δ| inherits the bound of mean Δ, since ||x| − |y|| ≤ |x − y|.

Round-off. N×V and F×V arrays are float32, all else is float64. `rounding` states what that may add: a relative ε
in p, m and q, the error of float32 logits where they are float32 products, and that of the V-term float32 sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.capture import Capture

EPSILON = torch.finfo(torch.float32).eps
FLOAT64_PRODUCTS = 2e11
"""Logits are float64 products, rounded to float32 once, where N·V·d + F·V·d is at most this; else float32."""
LOGIT_ROUNDING = 4.0
"""Error of a float32 logit, in units of ε·max|m|."""
SUM_ROUNDING = 16.0
"""Error of the float32 average E_p q², in units of ε times itself; its sums run in short lanes."""
PAIR_ROUNDING = 4.0
"""Error of an average of z, or of log E exp z, in units of ε·max|z|: that of z itself and of its weights."""
TOP_TYPES = 1024
"""Size of the top of the vocabulary; at most a quarter of it."""
CACHE_ELEMENTS = 2**19
"""Size of the arrays that pairs are summed in over the vocabulary, so that they stay in cache."""
SECOND_ORDER_SHARE = 0.75
"""Share of the tolerance that pairs left at second order may use."""


@dataclass(frozen=True)
class DeltaBlock:
    """Δ of every measured position for some neurons."""

    neurons: slice
    delta: Tensor
    """float64 (N, neurons), nats: the middle of each pair's interval."""
    half_width: Tensor
    """float64, same shape: what the bounds leave open; 0 for pairs summed exactly."""
    rounding: Tensor
    """float64, same shape: what float32 arithmetic may have added."""
    refined: int
    """Pairs that needed more than the second order."""


@dataclass(frozen=True)
class _Logits:
    """What the logits of every measured position are made of: l = normed·Uᵀ + b."""

    normed: Tensor
    """(N, d): γ∘x/σ, so that m = normed·Uᵀ; float32 or float64, as are all three."""
    unembedding: Tensor
    """(V, d)."""
    fixed: Tensor
    """(V,): b."""

    def block(self, rows: slice) -> tuple[Tensor, Tensor]:
        """p and m (rows, V), m not centred."""
        m = self.normed[rows] @ self.unembedding.T
        return torch.softmax(m + self.fixed, dim=1), m

    @property
    def rounding(self) -> float:
        """Error of a logit in units of ε·max|m|."""
        return LOGIT_ROUNDING if self.normed.dtype == torch.float32 else 0.0


@dataclass(frozen=True)
class _Averages:
    """Averages under p that all neurons share, float64; m is centred under p but for `m_mean`."""

    row: Tensor
    """(N, d): p·U."""
    m_row: Tensor
    """(N, d): (p∘m)·U."""
    m_mean: Tensor
    """(N, 1): E_p m."""
    m_variance: Tensor
    """(N, 1)."""
    m_range: Tensor
    """(N, 1): max m − min m."""
    m_largest: Tensor
    """(N, 1): max |m|."""


@dataclass(frozen=True)
class _Pairs:
    """All pairs of the N measured positions with f neurons; float64 (N, f) but for q."""

    q: Tensor
    """float32 (f, V), centred over V."""
    a: Tensor
    t: Tensor
    z_target: Tensor
    """z at the target."""
    mean: Tensor
    """μ = E_p z."""
    variance: Tensor
    """s² = Var_p z."""
    spread: Tensor
    """R, a bound of max z − min z."""
    largest: Tensor
    """A bound of max |z|."""
    rounding: Tensor
    """Round-off of the second-order Δ."""
    refined_rounding: Tensor
    """Round-off of the other stages' Δ."""


def delta_blocks(captured: Capture, members: list[Tensor], tolerance: float, memory_bytes: int) -> Iterator[DeltaBlock]:
    """Δ of all measured positions, some neurons at a time, each class mean certified to `tolerance` nats.

    members: bool (N,) for each class. The blocks' temporaries take about `memory_bytes`.
    """
    parts = captured.anatomy
    gain = parts.readout.gain.double()
    x, w = _centred(captured.residual), _centred(parts.output_rows)
    variance = x.square().mean(1, keepdim=True) + parts.readout.epsilon
    logits = _logits(captured, gain * x / variance.sqrt())
    size = max(1, memory_bytes // (48 * len(logits.fixed)))
    row_blocks = _slices(len(x), size)
    average = _averages(logits, row_blocks)
    kept_p = logits.block(row_blocks[0])[0].float() if len(row_blocks) == 1 else None
    targets = logits.unembedding[torch.from_numpy(captured.positions.target).to(x.device)].double()
    for neurons in _slices(len(w), size):
        a, t = _shift(_change(captured, neurons), x, variance, w[neurons])
        pairs = _pairs(logits, average, row_blocks, kept_p, gain * w[neurons], a, t, targets)
        low, high = _second_order(pairs.mean, pairs.variance, pairs.spread)
        middle, half_width = (low + high) / 2, (high - low) / 2
        rounding = torch.maximum(pairs.rounding, pairs.refined_rounding)
        wide = _widest(half_width, rounding, members, SECOND_ORDER_SHARE * tolerance)
        for rows in row_blocks:
            _sum_top(logits, average, rows, wide, pairs, middle, half_width)
        still_wide = _widest(half_width, rounding, members, tolerance)
        for rows in row_blocks:
            _sum_all(logits, average, rows, still_wide, pairs, middle, half_width)
        refined = wide | still_wide
        rounding = torch.where(refined, pairs.refined_rounding, pairs.rounding)
        yield DeltaBlock(neurons, middle - pairs.z_target, half_width, rounding, int(refined.sum()))


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _centred(rows: Tensor) -> Tensor:
    values = rows.double()
    return values - values.mean(1, keepdim=True)


def _change(captured: Capture, neurons: slice) -> Tensor:
    """c (N, f): what ablation adds to each activation; exactly 0 for a neuron that never varies."""
    moments = captured.moments
    c = moments.mean[neurons] - captured.activations[:, neurons].double()
    c[:, moments.minimum[neurons] == moments.maximum[neurons]] = 0.0
    return c


def _logits(captured: Capture, normed: Tensor) -> _Logits:
    readout = captured.anatomy.readout
    fixed = readout.unembedding.double() @ readout.shift.double()
    if readout.bias is not None:
        fixed = fixed + readout.bias.double()
    unembedding = readout.unembedding
    products = unembedding.numel() * (len(normed) + captured.activations.shape[1])
    kind = torch.float64 if products <= FLOAT64_PRODUCTS else torch.float32
    return _Logits(normed.to(kind), unembedding.to(kind), fixed.to(kind))


def _averages(logits: _Logits, row_blocks: list[slice]) -> _Averages:
    """One pass over the positions, in blocks."""
    parts = []
    for rows in row_blocks:
        p, m = logits.block(rows)
        centre = (p * m).sum(1, keepdim=True)
        m -= centre
        weighted = p * m
        columns = (
            p @ logits.unembedding,
            weighted @ logits.unembedding,
            centre,
            (weighted * m).sum(1, keepdim=True),
            m.amax(1, keepdim=True) - m.amin(1, keepdim=True),
            m.abs().amax(1, keepdim=True),
        )
        parts.append([column.double() for column in columns])
    return _Averages(*(torch.cat(blocks) for blocks in zip(*parts, strict=True)))


def _shift(c: Tensor, x: Tensor, variance: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients a and t of every pair's logit shift, float64 (N, F), from c (N, F) and centred x and w."""
    change = (2 * c * (x @ w.T) + c.square() * w.square().sum(1)) / x.shape[1]
    before, after = variance.sqrt(), (variance + change).sqrt()
    return -change / (after * (before + after)), c / after


def _pairs(
    logits: _Logits,
    average: _Averages,
    row_blocks: list[slice],
    kept_p: Tensor | None,
    scaled: Tensor,
    a: Tensor,
    t: Tensor,
    targets: Tensor,
) -> _Pairs:
    """First and second moments of z. scaled: γ∘w̃ (f, d); targets: the unembedding rows u_y (N, d)."""
    q = scaled.to(logits.unembedding.dtype) @ logits.unembedding.T
    centre = q.mean(1)
    q = q.sub_(centre[:, None]).float()
    squares = q.square().T
    p_q2 = torch.cat(
        [(logits.block(rows)[0].float() if kept_p is None else kept_p) @ squares for rows in row_blocks]
    ).double()
    del squares
    p_q = average.row @ scaled.T - centre
    cross = average.m_row @ scaled.T
    variance = a.square() * average.m_variance + 2 * a * t * cross + t.square() * (p_q2 - p_q.square()).clamp(min=0)
    variance = variance.clamp(min=0)
    m_target = (logits.normed.double() * targets).sum(1, keepdim=True) - average.m_mean
    largest = a.abs() * average.m_largest + t.abs() * q.abs().amax(1)
    of_logits = (1 + logits.rounding * average.m_largest) * variance.sqrt()
    return _Pairs(
        q=q,
        a=a,
        t=t,
        z_target=a * m_target + t * (targets @ scaled.T - centre),
        mean=t * p_q,
        variance=variance,
        spread=a.abs() * average.m_range + t.abs() * (q.amax(1) - q.amin(1)),
        largest=largest,
        rounding=EPSILON * (of_logits + SUM_ROUNDING * t.square() * p_q2),
        refined_rounding=EPSILON * (of_logits + PAIR_ROUNDING * largest),
    )


def _second_order(mean: Tensor, variance: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of a cumulant function at 1: mean + variance·g(∓spread)."""

    def g(r: Tensor) -> Tensor:
        near_zero = 0.5 + r / 6 + r.square() / 24
        return torch.where(r.abs() < 1e-3, near_zero, (torch.expm1(r) - r) / r.square())

    constant = variance == 0
    low, high = variance * g(-spread), variance * g(spread)
    return mean + low.masked_fill(constant, 0.0), mean + high.masked_fill(constant, 0.0)


def _widest(half_width: Tensor, rounding: Tensor, members: list[Tensor], tolerance: float) -> Tensor:
    """bool (N, F): the fewest pairs whose removal brings every class's mean error within the tolerance."""
    chosen = torch.zeros_like(half_width, dtype=torch.bool)
    for member in members:
        own, order = half_width[member].sort(dim=0)
        over = own.cumsum(0) > (tolerance * len(own) - rounding[member].sum(0)).clamp(min=0)
        chosen[member] |= torch.zeros_like(over).scatter(0, order, over)
    return chosen


def _sum_top(
    logits: _Logits,
    average: _Averages,
    rows: slice,
    wide: Tensor,
    pairs: _Pairs,
    middle: Tensor,
    half_width: Tensor,
) -> None:
    """Replaces middle and half-width of K(1) for the pairs `wide` among `rows`: top summed, rest bounded."""
    found = wide[rows].nonzero()
    if len(found) == 0:
        return
    p, m = logits.block(rows)
    count = max(1, min(TOP_TYPES, p.shape[1] // 4))
    p_top, top = p.topk(count, dim=1, sorted=False)
    m_top = (m.gather(1, top) - average.m_mean[rows]).double()
    whole = p.sum(1, dtype=torch.float64)
    rest = (whole - p_top.sum(1, dtype=torch.float64)).clamp(min=torch.finfo(torch.float64).tiny)
    for row, neuron in (chunk.T for chunk in found.split(max(1, CACHE_ELEMENTS // count))):
        at = (row + rows.start, neuron)
        z = pairs.q[neuron[:, None], top[row]] * pairs.t[at][:, None] + m_top[row] * pairs.a[at][:, None]
        weight, mass = p_top[row].double(), rest[row]
        weighted = weight * z
        first = pairs.mean[at] - weighted.sum(1)
        second = pairs.variance[at] + pairs.mean[at].square() - (weighted * z).sum(1)
        low, high = _rest_bounds(first / mass, second / mass, mass, pairs.spread[at], pairs.largest[at])
        top_sum = (weight * torch.exp(z)).sum(1)
        low, high = (torch.log((top_sum + mass * torch.exp(k)) / whole[row]) for k in (low, high))
        middle[at], half_width[at] = (low + high) / 2, (high - low) / 2


def _rest_bounds(mean: Tensor, square: Tensor, mass: Tensor, spread: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of K_T(1) from the mean of z and z² under the rest, which are differences and carry their round-off."""
    mean_error, square_error = (PAIR_ROUNDING * EPSILON * x / mass for x in (largest, largest.square()))
    nearest, farthest = (mean.abs() - mean_error).clamp(min=0), mean.abs() + mean_error
    largest_variance = spread.square() / 4
    least = (square - square_error - farthest.square()).clamp(min=0).minimum(largest_variance)
    most = (square + square_error - nearest.square()).clamp(min=0).minimum(largest_variance)
    low, _ = _second_order(mean - mean_error, least, spread)
    _, high = _second_order(mean + mean_error, most, spread)
    return low.clamp(min=-largest).minimum(largest), high.minimum(largest).clamp(min=-largest)


def _sum_all(
    logits: _Logits,
    average: _Averages,
    rows: slice,
    wide: Tensor,
    pairs: _Pairs,
    middle: Tensor,
    half_width: Tensor,
) -> None:
    """Replaces K(1) of the pairs `wide` among `rows` by its sum over the whole vocabulary."""
    found = wide[rows].nonzero()
    if len(found) == 0:
        return
    p, m = logits.block(rows)
    log_p, log_whole, m = p.log(), p.sum(1, dtype=torch.float64).log(), m - average.m_mean[rows]
    for row, neuron in (chunk.T for chunk in found.split(max(1, CACHE_ELEMENTS // p.shape[1]))):
        at = (row + rows.start, neuron)
        z = pairs.q[neuron].double().mul_(pairs.t[at][:, None])
        z += m[row] * pairs.a[at][:, None]
        middle[at] = torch.logsumexp(z.add_(log_p[row]), dim=1) - log_whole[row]
    half_width[rows][wide[rows]] = 0.0
