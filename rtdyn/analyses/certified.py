"""The change of loss under mean ablation, for every position and neuron, each with a proven interval.

Replacing neuron i's activation a_ni by its mean ā_i moves the final residual stream r_n by c·w_i with
c = ā_i − a_ni, and only the final norm and the unembedding follow. With x = r − mean(r), w̃ = w − mean(w),
σ² = ‖x‖²/d + ε and δ = (2c⟨x,w̃⟩ + c²‖w̃‖²)/d, the ablated norm is σ' = √(σ² + δ), and every logit moves by

    z_v = a·m_v + t·q_v,   a = −δ/(σ'(σ + σ')),   t = c/σ',   m_v = l_v − b_v,   q_v = ⟨γ∘w̃, u_v⟩

where b_v = ⟨β, u_v⟩ + bias_v is the part of logit l_v that the norm does not scale (for RMSNorm x = r, w̃ = w).
Where an RMSNorm of gain γ₂ and scale ρ stands between the MLP's output o and the stream, r moves instead by
α·γ₂∘o + (c/ρ')·γ₂∘w, α = 1/ρ' − 1/ρ, and z has one direction more: h_v = ⟨γ∘γ₂∘o, u_v⟩, with coefficient α/σ'.
Below, m stands for the D = 1 or 2 directions that a position has. Hence the exact change

    Δ_ni = loss(ablated) − loss = K(1) − z_y,   K(θ) = log E_{v∼p}[exp θz_v],   p = softmax(l), y the target,

at O(V) a pair instead of O(d·V). Constants in v cancel, so m is centred under p and q over v beforehand.

Second order. K is the cumulant function of z: K(0) = 0, K'(0) = μ = E_p z, K''(θ) is the variance of z under p
tilted by e^{θz}, and K''' its third central moment, so |K'''| ≤ R·K'' with R = max z − min z. Then K''(θ) lies
between s²e^{−Rθ} and s²e^{Rθ} (s² = Var_p z), and integrating twice

    μ + s²·g(−R) ≤ K(1) ≤ μ + s²·g(R),   g(R) = (e^R − 1 − R)/R².

R ≤ Σ|a|·range(m_n) + |t|·range(q_i). μ and s² need E_p q and E_p[m q], which are products with the
d-dimensional averages p·U and (p∘m)·U, and E_p q², the one N×V by V×F product.

Top of the vocabulary. With S the most likely types and π the mass of the rest, E_p e^z = Σ_S p e^z + π·e^{K_T(1)},
where K_T belongs to p conditioned on the rest; its mean and variance are what S leaves of E_p z and E_p z², and
the same bound holds for it, π times as wide.

Exactly. What is still too wide is summed over the whole vocabulary.

The widest pairs go on to the next stage, until the errors left average at most the tolerance for every neuron in
every class. mean |Δ| inherits the bound of mean Δ, since ||x| − |y|| ≤ |x − y|.

Round-off. N×V and F×V arrays are float32, all else is float64; where the products that make them are float32 too,
their entries err by about ε·‖factor‖·‖u_v‖. An error η of the logits moves K(1) by at most η·Σ|p' − p|, p' being p
tilted by e^z, and Σ|p' − p| ≤ min(2, s·(e^{R/2} − 1)/(R/2)), since tilting moves p at the rate of the standard
deviation of z, which grows at most as e^{Rθ/2}. An error of z itself counts once. The round-off of E_p q² enters the
variance before the bounds are taken. A common row of U cancels, and is subtracted first.
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
PRODUCT_ROUNDING = 2.0
"""Error of an entry of a float32 product, in units of ε·‖row‖·‖column‖."""
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
class _Mlp:
    """The final MLP's output before its own norm, float64, for families that have one."""

    rows: Tensor
    """(F, d): w."""
    output: Tensor
    """(N, d): o."""
    variance: Tensor
    """(N, 1): ρ²."""
    written: Tensor
    """(N, d): γ₂∘o, centred where the final norm centres."""


@dataclass(frozen=True)
class _Stream:
    """The last residual stream and what neurons write to it, float64."""

    gain: Tensor
    """(d,): γ."""
    x: Tensor
    """(N, d)."""
    variance: Tensor
    """(N, 1): σ²."""
    w: Tensor
    """(F, d): w̃, or γ₂∘w where a norm follows the MLP."""
    mlp: _Mlp | None


@dataclass(frozen=True)
class _Logits:
    """What the logits of every measured position are made of, float32 or float64: l = normed[0]·Uᵀ + b."""

    normed: Tensor
    """(D, N, d): the positions' directions are m = normed·Uᵀ; the first is γ∘x/σ."""
    unembedding: Tensor
    """(V, d), its mean row subtracted."""
    fixed: Tensor
    """(V,): b."""
    product_rounding: float
    """Error of an entry of a product with Uᵀ, in units of ε·‖row‖."""
    error: Tensor
    """float64 (N, 1): error of a logit in units of ε: of its products, of adding b, and one of p itself."""

    def block(self, rows: slice) -> tuple[Tensor, Tensor]:
        """log p (rows, V) and m (D, rows, V), m not centred."""
        m = self.normed[:, rows] @ self.unembedding.T
        return torch.log_softmax(m[0] + self.fixed, dim=1), m

    def product_error(self, factor: Tensor) -> Tensor:
        """Error of factor·Uᵀ in units of ε, float64, for factor (…, d): 0 where the products are float64."""
        return self.product_rounding * factor.double().norm(dim=-1)


@dataclass(frozen=True)
class _Averages:
    """Averages under p that all neurons share, float64; m is centred under p but for `m_mean`."""

    row: Tensor
    """(N, d): p·U."""
    m_row: Tensor
    """(D, N, d): (p∘m)·U."""
    m_mean: Tensor
    """(D, N, 1): E_p m."""
    m_covariance: Tensor
    """(D, D, N, 1)."""
    m_range: Tensor
    """(D, N, 1): max m − min m."""
    m_largest: Tensor
    """(D, N, 1): max |m|."""


@dataclass(frozen=True)
class _Pairs:
    """All pairs of the N measured positions with f neurons; float64 (N, f) where nothing else is said."""

    q: Tensor
    """float32 (f, V), centred over V."""
    a: Tensor
    """(D, N, f)."""
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
    variance_error: Tensor
    """Round-off of s², and of E_p z²."""
    z_error: Tensor
    """Round-off of z."""
    rounding: Tensor
    """Round-off of Δ."""

    def z(self, q: Tensor, m: Tensor, row: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        """z = Σ a·m + t·q of some pairs, float64 (k, v): q (k, v) theirs, m (D, rows, v) of which they take `row`."""
        z = q.double().mul_(self.t[at][:, None])
        for a_i, m_i in zip(self.a, m, strict=True):
            z += m_i[row] * a_i[at][:, None]
        return z


def delta_blocks(captured: Capture, members: list[Tensor], tolerance: float, memory_bytes: int) -> Iterator[DeltaBlock]:
    """Δ of all measured positions, some neurons at a time, each class mean certified to `tolerance` nats.

    members: bool (N,) for each class. The blocks' temporaries take about `memory_bytes`.
    """
    stream = _stream(captured)
    logits = _logits(captured, stream)
    size = max(1, memory_bytes // (48 * len(logits.fixed)))
    row_blocks = _slices(len(stream.x), size)
    average = _averages(logits, row_blocks)
    kept_p = logits.block(row_blocks[0])[0].exp().float() if len(row_blocks) == 1 else None
    targets = logits.unembedding[torch.from_numpy(captured.positions.target).to(stream.x.device)].double()
    for neurons in _slices(captured.activations.shape[1], size):
        a, t = _shift(stream, _change(captured, neurons), neurons)
        pairs = _pairs(logits, average, row_blocks, kept_p, stream.gain * stream.w[neurons], a, t, targets)
        low, high = _second_order(pairs.mean, pairs.variance, pairs.variance_error, pairs.spread)
        middle, half_width = (low + high) / 2, (high - low) / 2
        wide = _widest(half_width, pairs.rounding, members, SECOND_ORDER_SHARE * tolerance)
        for rows in row_blocks:
            _sum_top(logits, average, rows, wide, pairs, middle, half_width)
        still_wide = _widest(half_width, pairs.rounding, members, tolerance)
        for rows in row_blocks:
            _sum_all(logits, average, rows, still_wide, pairs, middle, half_width)
        refined = int((wide | still_wide).sum())
        yield DeltaBlock(neurons, middle - pairs.z_target, half_width, pairs.rounding, refined)


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _change(captured: Capture, neurons: slice) -> Tensor:
    """c (N, f): what ablation adds to each activation; exactly 0 for a neuron that never varies."""
    moments = captured.moments
    c = moments.mean[neurons] - captured.activations[:, neurons].double()
    c[:, moments.minimum[neurons] == moments.maximum[neurons]] = 0.0
    return c


def _stream(captured: Capture) -> _Stream:
    parts = captured.anatomy
    readout, post_norm, rows = parts.readout, parts.post_norm, parts.output_rows.double()

    def centred(values: Tensor) -> Tensor:
        return values - values.mean(1, keepdim=True) if readout.centred else values

    mlp, written = None, rows
    if post_norm is not None:
        gain = post_norm.gain.double()
        written = gain * rows
        output = captured.activations.double() @ rows
        bias = getattr(parts.mlp_output, "bias", None)
        if bias is not None:
            output += bias.double()
        variance = output.square().mean(1, keepdim=True) + post_norm.epsilon
        mlp = _Mlp(rows, output, variance, centred(gain * output))
    x = centred(captured.residual.double())
    variance = x.square().mean(1, keepdim=True) + readout.epsilon
    return _Stream(readout.gain.double(), x, variance, centred(written), mlp)


def _logits(captured: Capture, stream: _Stream) -> _Logits:
    readout = captured.anatomy.readout
    normed = [stream.gain * stream.x / stream.variance.sqrt()]
    if stream.mlp is not None:
        normed.append(stream.gain * stream.mlp.written)
    products = readout.unembedding.numel() * (len(normed[0]) + captured.activations.shape[1])
    kind = torch.float64 if products <= FLOAT64_PRODUCTS else torch.float32
    unembedding = readout.unembedding.to(kind)
    unembedding = unembedding - unembedding.mean(0, dtype=torch.float64).to(kind)
    fixed = unembedding @ readout.shift.to(kind)
    if readout.bias is not None:
        fixed = fixed + readout.bias.to(kind)
    single = kind == torch.float32
    rounding = PRODUCT_ROUNDING * float(unembedding.norm(dim=1).amax()) if single else 0.0
    of_fixed = rounding * readout.shift.double().norm() + (fixed.abs().amax() if single else 0.0)
    error = 1 + rounding * normed[0].norm(dim=1, keepdim=True) + of_fixed
    return _Logits(torch.stack(normed).to(kind), unembedding, fixed, rounding, error)


def _averages(logits: _Logits, row_blocks: list[slice]) -> _Averages:
    """One pass over the positions, in blocks."""
    parts = []
    for rows in row_blocks:
        log_p, m = logits.block(rows)
        p = log_p.exp_()
        centre = (p * m).sum(2, keepdim=True)
        m -= centre
        weighted = p * m
        columns = (
            p @ logits.unembedding,
            weighted @ logits.unembedding,
            centre,
            torch.stack([(w * m).sum(2, keepdim=True) for w in weighted]),
            m.amax(2, keepdim=True) - m.amin(2, keepdim=True),
            m.abs().amax(2, keepdim=True),
        )
        parts.append([column.double() for column in columns])
    return _Averages(*(torch.cat(blocks, dim=-2) for blocks in zip(*parts, strict=True)))


def _shift(stream: _Stream, c: Tensor, neurons: slice) -> tuple[Tensor, Tensor]:
    """Coefficients of every pair's logit shift, a (D, N, f) and t (N, f), from the activations' change c (N, f)."""
    x, w, mlp = stream.x, stream.w[neurons], stream.mlp
    if mlp is None:
        along, moved = [], c
        change = 2 * c * (x @ w.T) + c.square() * w.square().sum(1)
    else:
        rows = mlp.rows[neurons]
        grown = (2 * c * (mlp.output @ rows.T) + c.square() * rows.square().sum(1)) / x.shape[1]
        before, after = mlp.variance.sqrt(), (mlp.variance + grown).sqrt()
        alpha, moved = -grown / (before * after * (before + after)), c / after
        along = [alpha]
        change = (
            2 * alpha * (x * mlp.written).sum(1, keepdim=True)
            + 2 * moved * (x @ w.T)
            + alpha.square() * mlp.written.square().sum(1, keepdim=True)
            + 2 * alpha * moved * (mlp.written @ w.T)
            + moved.square() * w.square().sum(1)
        )
    change = change / x.shape[1]
    before, after = stream.variance.sqrt(), (stream.variance + change).sqrt()
    return torch.stack([-change / (after * (before + after)), *(b / after for b in along)]), moved / after


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
    q = (scaled.to(logits.unembedding.dtype) @ logits.unembedding.T).float()
    squares = q.square().T
    p_q2 = torch.cat(
        [(logits.block(rows)[0].exp().float() if kept_p is None else kept_p) @ squares for rows in row_blocks]
    ).double()
    del squares
    p_q = average.row @ scaled.T
    variance = t.square() * (p_q2 - p_q.square())
    for i, a_i in enumerate(a):
        variance += 2 * a_i * t * (average.m_row[i] @ scaled.T)
        for j, a_j in enumerate(a):
            variance += a_i * a_j * average.m_covariance[i, j]
    variance.clamp_(min=0)
    m_target = (logits.normed.double() * targets).sum(2, keepdim=True) - average.m_mean
    largest = (a.abs() * average.m_largest).sum(0) + t.abs() * q.abs().amax(1)
    spread = (a.abs() * average.m_range).sum(0) + t.abs() * (q.amax(1) - q.amin(1))
    products = (a.abs() * logits.product_error(logits.normed)[..., None]).sum(0)
    products += t.abs() * logits.product_error(scaled)
    z_error = EPSILON * (PAIR_ROUNDING * largest + products)
    variance_error = SUM_ROUNDING * EPSILON * t.square() * p_q2 + 2 * z_error * largest
    half = (spread / 2).clamp(min=1e-6)
    tilt = ((variance + variance_error).sqrt() * torch.expm1(half) / half).clamp(max=2)
    return _Pairs(
        q=q,
        a=a,
        t=t,
        z_target=(a * m_target).sum(0) + t * (targets @ scaled.T),
        mean=t * p_q,
        variance=variance,
        spread=spread,
        largest=largest,
        variance_error=variance_error,
        z_error=z_error,
        rounding=EPSILON * tilt * logits.error + z_error,
    )


def _second_order(mean: Tensor, variance: Tensor, error: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of a cumulant function at 1: mean + variance·g(∓spread), the variance known up to `error`."""

    def g(r: Tensor) -> Tensor:
        near_zero = 0.5 + r / 6 + r.square() / 24
        return torch.where(r.abs() < 1e-3, near_zero, (torch.expm1(r) - r) / r.square())

    constant = spread == 0
    low, high = (variance - error).clamp(min=0) * g(-spread), (variance + error) * g(spread)
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
    log_p, m = logits.block(rows)
    p = log_p.exp_()
    count = max(1, min(TOP_TYPES, p.shape[1] // 4))
    p_top, top = p.topk(count, dim=1, sorted=False)
    m_top = (m.gather(2, top.expand(len(m), -1, -1)) - average.m_mean[:, rows]).double()
    whole = p.sum(1, dtype=torch.float64)
    rest = (whole - p_top.sum(1, dtype=torch.float64)).clamp(min=torch.finfo(torch.float64).tiny)
    for row, neuron in (chunk.T for chunk in found.split(max(1, CACHE_ELEMENTS // count))):
        at = (row + rows.start, neuron)
        z = pairs.z(pairs.q[neuron[:, None], top[row]], m_top, row, at)
        weight, mass = p_top[row].double(), rest[row]
        weighted = weight * z
        first = pairs.mean[at] - weighted.sum(1)
        second = pairs.variance[at] + pairs.mean[at].square() - (weighted * z).sum(1)
        low, high = _rest_bounds(
            first / mass,
            second / mass,
            pairs.z_error[at] / mass,
            pairs.variance_error[at] / mass,
            pairs.spread[at],
            pairs.largest[at],
        )
        top_sum = (weight * torch.exp(z)).sum(1)
        low, high = (torch.log((top_sum + mass * torch.exp(k)) / whole[row]) for k in (low, high))
        middle[at] = (low + high) / 2
        # where e^z overflows, both bounds are infinite and their difference is no number: the pair is not bounded
        half_width[at] = ((high - low) / 2).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _rest_bounds(
    mean: Tensor, square: Tensor, mean_error: Tensor, square_error: Tensor, spread: Tensor, largest: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of K_T(1) from the mean of z and of z² under the rest, which are differences and carry round-off."""
    nearest, farthest = (mean.abs() - mean_error).clamp(min=0), mean.abs() + mean_error
    most = (square + square_error - nearest.square()).clamp(min=0).minimum(spread.square() / 4)
    least = (square - square_error - farthest.square()).clamp(min=0).minimum(most)
    exactly = torch.zeros_like(spread)
    low, _ = _second_order(mean - mean_error, least, exactly, spread)
    _, high = _second_order(mean + mean_error, most, exactly, spread)
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
    log_p, m = logits.block(rows)
    log_p, m = log_p.double(), m - average.m_mean[:, rows]
    log_whole = torch.logsumexp(log_p, dim=1)
    for row, neuron in (chunk.T for chunk in found.split(max(1, CACHE_ELEMENTS // log_p.shape[1]))):
        at = (row + rows.start, neuron)
        z = pairs.z(pairs.q[neuron], m, row, at)
        middle[at] = torch.logsumexp(z.add_(log_p[row]), dim=1) - log_whole[row]
    half_width[rows][wide[rows]] = 0.0
