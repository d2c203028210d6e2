"""Mean-ablation influence of every final-MLP neuron on the loss, certified (METHODS §2).

Replacing neuron i's activation a_ni by its mean ā_i moves the final residual stream r_n by c·w_i with
c = ā_i − a_ni, and only the final norm and the unembedding follow. With x = r − mean(r), w̃ = w − mean(w),
σ² = ‖x‖²/d + ε and δ = (2c⟨x,w̃⟩ + c²‖w̃‖²)/d, the ablated norm is σ' = √(σ² + δ), and every logit moves by

    z_v = a·m_v + t·q_v,   a = −δ/(σ'(σ + σ')),   t = c/σ',   m_v = l_v − b_v,   q_v = ⟨γ∘w̃, u_v⟩

where b_v = ⟨β, u_v⟩ + bias_v is the part of logit l_v that the norm does not scale. Hence the exact change

    Δ_ni = loss(ablated) − loss = log E_{v∼p}[exp z_v] − z_y,   p = softmax(l), y the target,

at O(V) a pair instead of O(d·V). Constants in v cancel, so m is centred under p and q over v beforehand.

Most pairs need not even that. K(θ) = log E_p[e^{θz}] is the cumulant function of z: K(0) = 0, K'(0) = μ = E_p z,
K''(θ) is the variance of z under p tilted by e^{θz}, and K''' its third central moment, so |K'''| ≤ R·K'' with
R = max z − min z. Then K''(θ) lies between s²e^{−Rθ} and s²e^{Rθ} (s² = Var_p z), and integrating twice

    μ + s²·g(−R) ≤ K(1) ≤ μ + s²·g(R),   g(R) = (e^R − 1 − R)/R².

R ≤ |a|·range(m_n) + |t|·range(q_i). μ and s² need E_p q and E_p[m q], which are products with the
d-dimensional averages p·U and (p∘m)·U, and E_p q², the one N×V by V×F product. Pairs whose intervals are
widest are then evaluated exactly, until the half-widths left over average at most the tolerance for every
neuron in every class. |mean |Δ|| inherits the bound of the mean, since ||x| − |y|| ≤ |x − y|.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.capture import Capture

TOLERANCE = 1e-5
"""Largest mean half-width a neuron's class mean may keep, in nats."""

MEMORY_BYTES = 2 * 2**30
"""What the blocks may take beyond the model and the capture."""

EPSILON = torch.finfo(torch.float32).eps
LOGIT_ROUNDING = 4.0
"""Float32 error of a logit, in units of ε·max|m|."""
SUM_ROUNDING = 16.0
"""Float32 error of a V-term average, in units of ε times the largest term; sums run in short lanes."""
MAX_EXPONENT = 30.0
"""Exact pairs whose |z| may exceed this have their maximum subtracted."""


@dataclass(frozen=True)
class ClassInfluence:
    """Influence of each neuron on one token class, over its n measured positions; in nats, float64 (F,)."""

    n: int
    mean_abs: Tensor
    """A_i = mean |Δ_ni|."""
    mean_abs_se: Tensor
    mean: Tensor
    """Δ_i = mean Δ_ni: positive where the neuron helps."""
    mean_se: Tensor
    error_bound: Tensor
    """Largest distance of either mean from its exact value, float32 round-off included."""
    window_ids: Tensor
    """int64 (w,): the windows that hold positions of the class."""
    window_n: Tensor
    """int64 (w,): positions in each."""
    window_sum: Tensor
    """float64 (w, F): Σ Δ_ni over each window's positions."""
    window_abs_sum: Tensor
    """float64 (w, F): Σ |Δ_ni|."""


@dataclass(frozen=True)
class Influence:
    """Influence on every class of a run, and by frequency decile of the targets."""

    classes: dict[str, ClassInfluence]
    decile_n: Tensor
    """int64 (deciles,)."""
    decile_sum: Tensor
    """float64 (deciles, F): Σ Δ_ni over the measured positions of each decile of target frequency."""
    decile_abs_sum: Tensor
    exact_share: float
    """Share of the pairs that were evaluated exactly."""


@dataclass(frozen=True)
class DeltaBlock:
    """Δ of every measured position for some neurons."""

    neurons: slice
    delta: Tensor
    """float64 (N, neurons), nats: the middle of each pair's interval."""
    half_width: Tensor
    """float64, same shape: what the second-order interval leaves open; 0 for exact pairs."""
    rounding: Tensor
    """float64, same shape: what float32 arithmetic may have added."""


@dataclass(frozen=True)
class _Logits:
    """What the logits of every measured position are made of: l = normed·Uᵀ + b."""

    normed: Tensor
    """float32 (N, d): γ∘x/σ, so that m = normed·Uᵀ."""
    unembedding: Tensor
    """float32 (V, d)."""
    fixed: Tensor
    """float32 (V,): b."""

    def block(self, rows: slice) -> tuple[Tensor, Tensor]:
        """p and m, float32 (rows, V), m not centred."""
        m = self.normed[rows] @ self.unembedding.T
        return torch.softmax(m + self.fixed, dim=1), m


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


def influence(
    captured: Capture,
    decile_of: Tensor,
    deciles: int,
    *,
    tolerance: float = TOLERANCE,
    memory_bytes: int = MEMORY_BYTES,
) -> Influence:
    """Mean-ablation influence of every neuron on every class the capture was measured for.

    decile_of: int64 (V,), the frequency decile of each type as a target, −1 for none. tolerance in nats.
    Standard errors take windows as clusters: positions of one window are not independent.
    """
    positions = captured.positions
    device = captured.residual.device
    windows = torch.from_numpy(positions.window).to(device)
    members = {c.name: torch.from_numpy(positions.members(c.name)).to(device) for c in positions.classes}
    decile = decile_of.to(device)[torch.from_numpy(positions.target).to(device)]
    placed = decile >= 0
    parts: dict[str, list[ClassInfluence]] = {name: [] for name in members}
    sums, abs_sums, exact = [], [], 0
    for block in delta_blocks(captured, list(members.values()), tolerance, memory_bytes):
        error = block.half_width + block.rounding
        for name, member in members.items():
            parts[name].append(_class_influence(block.delta[member], windows[member], error[member]))
        zero = torch.zeros(deciles, block.delta.shape[1], dtype=torch.float64, device=device)
        sums.append(zero.index_add(0, decile[placed], block.delta[placed]))
        abs_sums.append(zero.index_add(0, decile[placed], block.delta[placed].abs()))
        exact += int((block.half_width == 0).sum())
    return Influence(
        classes={name: _join(blocks) for name, blocks in parts.items()},
        decile_n=torch.bincount(decile[placed], minlength=deciles),
        decile_sum=torch.cat(sums, 1),
        decile_abs_sum=torch.cat(abs_sums, 1),
        exact_share=exact / captured.activations.numel(),
    )


def _class_influence(delta: Tensor, windows: Tensor, error: Tensor) -> ClassInfluence:
    ids, index, counts = torch.unique(windows, return_inverse=True, return_counts=True)
    zero = torch.zeros(len(ids), delta.shape[1], dtype=torch.float64, device=delta.device)
    sums, abs_sums = zero.index_add(0, index, delta), zero.index_add(0, index, delta.abs())
    return ClassInfluence(
        n=len(delta),
        mean_abs=delta.abs().mean(0),
        mean_abs_se=clustered_se(abs_sums, counts),
        mean=delta.mean(0),
        mean_se=clustered_se(sums, counts),
        error_bound=error.mean(0),
        window_ids=ids,
        window_n=counts,
        window_sum=sums,
        window_abs_sum=abs_sums,
    )


def _join(blocks: list[ClassInfluence]) -> ClassInfluence:
    """One result from those of consecutive neuron blocks, which share n and windows."""
    first = blocks[0]
    vectors = ("mean_abs", "mean_abs_se", "mean", "mean_se", "error_bound")
    matrices = ("window_sum", "window_abs_sum")
    return ClassInfluence(
        n=first.n,
        window_ids=first.window_ids,
        window_n=first.window_n,
        **{name: torch.cat([getattr(b, name) for b in blocks]) for name in vectors},
        **{name: torch.cat([getattr(b, name) for b in blocks], 1) for name in matrices},
    )


def clustered_se(sums: Tensor, counts: Tensor) -> Tensor:
    """Standard error of Σ sums / Σ counts, rows of `sums` (w, F) being independent clusters; NaN for one."""
    n, clusters = counts.sum(), len(counts)
    if clusters < 2:
        return torch.full_like(sums[0], torch.nan)
    residuals = sums - counts[:, None] * (sums.sum(0) / n)
    return (residuals.square().sum(0) * clusters / (clusters - 1)).sqrt() / n


def delta_blocks(captured: Capture, members: list[Tensor], tolerance: float, memory_bytes: int) -> Iterator[DeltaBlock]:
    """Δ of all measured positions, some neurons at a time, each class mean certified to `tolerance`.

    members: bool (N,) for each class. The blocks' temporaries take about `memory_bytes`.
    """
    parts, moments = captured.anatomy, captured.moments
    gain = parts.readout.gain.double()
    x, w = _centred(captured.residual), _centred(parts.output_rows)
    variance = x.square().mean(1, keepdim=True) + parts.readout.epsilon
    logits = _logits(captured, gain * x / variance.sqrt())
    size = max(1, memory_bytes // (32 * len(logits.fixed)))
    row_blocks = _slices(len(x), size)
    mean = _averages(logits, row_blocks)
    kept_p = logits.block(row_blocks[0])[0] if len(row_blocks) == 1 else None
    c = moments.mean - captured.activations.double()
    c[:, moments.minimum == moments.maximum] = 0.0
    targets = torch.from_numpy(captured.positions.target).to(c.device)
    target_rows = logits.unembedding[targets].double()
    m_target = (logits.normed.double() * target_rows).sum(1, keepdim=True) - mean.m_mean
    for neurons in _slices(len(w), size):
        a, t = _shift(c[:, neurons], x, variance, w[neurons])
        scaled = gain * w[neurons]
        q = scaled.float() @ logits.unembedding.T
        centre = q.mean(1)
        q -= centre[:, None]
        q_range, q_largest = (q.amax(1) - q.amin(1)).double(), q.abs().amax(1).double()
        squares = q.square().T
        p_q2 = torch.cat(
            [(logits.block(rows)[0] if kept_p is None else kept_p) @ squares for rows in row_blocks]
        ).double()
        del squares
        p_q = mean.row @ scaled.T - centre
        z_target = a * m_target + t * (target_rows @ scaled.T - centre)
        spread = (
            a.square() * mean.m_variance
            + 2 * a * t * (mean.m_row @ scaled.T)
            + t.square() * (p_q2 - p_q.square()).clamp(min=0)
        ).clamp(min=0)
        low, high = _second_order(spread, a.abs() * mean.m_range + t.abs() * q_range)
        delta = t * p_q - z_target + (low + high) / 2
        half_width = (high - low) / 2
        rounding = LOGIT_ROUNDING * mean.m_largest * spread.sqrt() + SUM_ROUNDING * t.square() * p_q2
        exact = _widest(half_width, EPSILON * rounding, members, tolerance)
        reach = a.abs() * mean.m_largest + t.abs() * q_largest
        for rows in row_blocks:
            _refine(logits, mean, rows, exact, q, a, t, z_target, reach, delta, size)
        half_width[exact] = 0.0
        rounding += torch.where(exact, SUM_ROUNDING * reach, 0.0)
        yield DeltaBlock(neurons, delta, half_width, EPSILON * rounding)


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _centred(rows: Tensor) -> Tensor:
    values = rows.double()
    return values - values.mean(1, keepdim=True)


def _logits(captured: Capture, normed: Tensor) -> _Logits:
    readout = captured.anatomy.readout
    fixed = readout.unembedding.double() @ readout.shift.double()
    if readout.bias is not None:
        fixed = fixed + readout.bias.double()
    return _Logits(normed.float(), readout.unembedding.float(), fixed.float())


def _averages(logits: _Logits, row_blocks: list[slice]) -> _Averages:
    """One pass over the positions, in blocks."""
    parts = []
    for rows in row_blocks:
        p, m = logits.block(rows)
        centre = (p * m).sum(1, keepdim=True)
        m -= centre
        weighted = p * m
        parts.append(
            (
                p @ logits.unembedding,
                weighted @ logits.unembedding,
                centre,
                (weighted * m).sum(1, keepdim=True),
                (m.amax(1) - m.amin(1))[:, None],
                m.abs().amax(1)[:, None],
            )
        )
    return _Averages(*(torch.cat(column).double() for column in zip(*parts, strict=True)))


def _shift(c: Tensor, x: Tensor, variance: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients a and t of every pair's logit shift, float64 (N, F), from c (N, F) and centred x and w."""
    change = (2 * c * (x @ w.T) + c.square() * w.square().sum(1)) / x.shape[1]
    before, after = variance.sqrt(), (variance + change).sqrt()
    return -change / (after * (before + after)), c / after


def _second_order(variance: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of K(1) − μ: variance·g(−reach) and variance·g(reach)."""

    def g(r: Tensor) -> Tensor:
        near_zero = 0.5 + r / 6 + r.square() / 24
        return torch.where(r.abs() < 1e-3, near_zero, (torch.expm1(r) - r) / r.square())

    reach = reach.clamp(max=100.0)
    return variance * g(-reach), variance * g(reach)


def _widest(half_width: Tensor, rounding: Tensor, members: list[Tensor], tolerance: float) -> Tensor:
    """bool (N, F): the fewest pairs whose removal brings every class's mean error within the tolerance."""
    chosen = torch.zeros_like(half_width, dtype=torch.bool)
    for member in members:
        own, order = half_width[member].sort(dim=0)
        over = own.cumsum(0) > (tolerance * len(own) - rounding[member].sum(0)).clamp(min=0)
        chosen[member] |= torch.zeros_like(over).scatter(0, order, over)
    return chosen


def _refine(
    logits: _Logits,
    mean: _Averages,
    rows: slice,
    exact: Tensor,
    q: Tensor,
    a: Tensor,
    t: Tensor,
    z_target: Tensor,
    reach: Tensor,
    delta: Tensor,
    chunk: int,
) -> None:
    """Writes Δ = log E_p[exp z] − z_y of the pairs `exact` among `rows` into `delta`, `chunk` pairs at a time."""
    if not exact[rows].any():
        return
    p, m = logits.block(rows)
    m -= mean.m_mean[rows].float()
    for pairs in exact[rows].nonzero().split(chunk):
        row, neuron = pairs.T
        at = (row + rows.start, neuron)
        z = q[neuron]
        z *= t[at].float()[:, None]
        z += m[row] * a[at].float()[:, None]
        if bool((reach[at] > MAX_EXPONENT).any()):
            value = torch.logsumexp(z + p[row].log(), dim=1).double()
        else:
            value = torch.log1p((torch.expm1(z, out=z) * p[row]).sum(1)).double()
        delta[at] = value - z_target[at]
