"""How mean ablation of a neuron moves every logit: blocks of positions, blocks of neurons, a pair's coefficients.

Replacing neuron i's activation a_ni by its mean ā_i moves the final residual stream r_n by c·w_i with
c = ā_i − a_ni, and only the final norm and the unembedding follow. With x = r − mean(r), w̃ = w − mean(w),
σ² = ‖x‖²/d + ε and δ = (2c⟨x,w̃⟩ + c²‖w̃‖²)/d, the ablated norm is σ' = √(σ² + δ), and every logit moves by

    z_v = a·m_v + t·q_v,   a = −δ/(σ'(σ + σ')),   t = c/σ',   m_v = l_v − b_v,   q_v = ⟨γ∘w̃, u_v⟩

where b_v = ⟨β, u_v⟩ + bias_v is the part of logit l_v that the norm does not scale (for RMSNorm x = r, w̃ = w).
Where an RMSNorm of gain γ₂ and scale ρ stands between the MLP's output o and the stream, r moves instead by
α·γ₂∘o + (c/ρ')·γ₂∘w, α = 1/ρ' − 1/ρ, and z has one direction more: h_v = ⟨γ∘γ₂∘o, u_v⟩, with coefficient α/σ'.
Below, m stands for the D = 1 or 2 directions that a position has; METHODS' section 2 is the source.

A shift may be projected (`Projection`): its part along a fixed vector of the vocabulary taken back, the types left
out unmoved. Both are linear in z, so m, q and u are replaced by their projections and p stays as it is.

Products with vectors of width d are float64 but for E_p[m u]; what has the vocabulary's length is rounded to float32
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.capture.forward_pass import Capture

RECOMPUTED = 1024
"""Pairs whose moved vectors are formed at a time."""
LANE_TYPES = 2048
"""Most types that one float32 sum runs over before it is added to others in float64."""


@dataclass(frozen=True)
class Sizes:
    """How much is taken at a time."""

    positions: int
    """In a block."""
    neurons: int
    """In a block."""
    softmax_rows: int
    """Positions whose logits are held in float64."""
    types: int
    """Types whose products are taken at a time."""
    held: bool
    """Whether there is room for the whole unembedding in float64."""

    @property
    def lane(self) -> int:
        """Types over which one float32 sum runs."""
        return min(LANE_TYPES, self.types)


def block_sizes(captured: Capture, memory_bytes: int, pair_bytes: int) -> Sizes:
    """Half of the memory for a block of positions, a quarter for one of neurons, the rest for temporaries.

    pair_bytes: what a pair of position and neuron takes meanwhile.
    """
    n, f = captured.activations.shape
    vocabulary, d = captured.anatomy.readout.unembedding.shape
    return sizes_of(n, f, vocabulary, d, 1 if captured.anatomy.post_norm is None else 2, memory_bytes, pair_bytes)


def sizes_of(n: int, f: int, vocabulary: int, d: int, directions: int, memory_bytes: int, pair_bytes: int) -> Sizes:
    """`block_sizes` of n positions, f neurons and an unembedding (vocabulary, d)."""

    def clamp(value: int, most: int) -> int:
        return max(1, min(value, most))

    # beside arrays of the vocabulary's length, float64 vectors of width d: eight a position, four a neuron
    positions = _even(n, memory_bytes // (8 * vocabulary * (1 + directions) + 128 * d))
    neurons = _even(f, memory_bytes // (4 * (4 * vocabulary + pair_bytes * positions + 32 * d)))
    softmax_rows = clamp(memory_bytes // (64 * vocabulary * (directions + 2)), positions)
    types = clamp(memory_bytes // (16 * (8 * d + 16 * max(neurons, softmax_rows))), vocabulary)
    return Sizes(positions, neurons, softmax_rows, types, 8 * vocabulary * d <= memory_bytes // 8)


def _even(total: int, most: int) -> int:
    """Size of the fewest equal blocks of at most `most`."""
    blocks = -(-total // max(1, most))
    return -(-total // blocks)


def slices(total: int, size: int) -> list[slice]:
    """Consecutive blocks of `size`, the last of what is left."""
    return [slice(start, min(total, start + size)) for start in range(0, total, size)]


@dataclass(frozen=True)
class Projection:
    """Turns a shift z, centred over the vocabulary, into kept∘z − ⟨z, û⟩·û."""

    direction: Tensor
    """float64 (V,): û, a unit vector that is 0 for types that are not kept."""
    kept: Tensor | None
    """float64 (V,): 1 for types whose logits move and 0 for others; None where all do."""


@dataclass(frozen=True)
class Unembedding:
    """The rows u_v, and what is fixed about the logits."""

    rows: Tensor
    """(V, d), as the model holds them."""
    mean: Tensor
    """float64 (d,): the mean row. It moves no probability and is taken off everywhere, for precision."""
    centred: Tensor | None
    """float64 (V, d): u_v less the mean row, where there is room."""
    fixed: Tensor
    """float64 (V,): b, up to a constant."""
    square_norm: Tensor
    """float64 (V,): ‖u_v‖² of the centred rows, projected."""
    types: int
    projection: Projection | None
    """What is done to every shift."""
    along: Tensor
    """float64 (d,): Σ_v û_v·u_v of the projection's û, or 0."""

    def at(self, types: Tensor | slice) -> Tensor:
        """float64 (k, d): these types' centred rows."""
        return self.rows[types].double() - self.mean if self.centred is None else self.centred[types]

    def project(self, rows: Tensor, types: Tensor | slice) -> Tensor:
        """The centred rows (k, d) of these types, as they shift logits."""
        if self.projection is None:
            return rows
        if self.projection.kept is not None:
            rows = rows * self.projection.kept[types, None]
        return rows - self.projection.direction[types, None] * self.along

    def logits(self, normed: Tensor) -> Tensor:
        """float64 (n, V), up to a constant a row, of normalised streams γ∘x/σ (n, d)."""
        result = self.fixed.expand(len(normed), -1).clone()
        for chunk, rows in self.chunks():
            result[:, chunk] += normed @ rows.T
        return result

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """All centred rows, some types at a time."""
        for chunk in slices(len(self.rows), self.types):
            yield chunk, self.at(chunk)


def unembedding(captured: Capture, sizes: Sizes, projection: Projection | None = None) -> Unembedding:
    """That of a captured model, its shifts projected where a projection is given."""
    readout = captured.anatomy.readout
    rows = readout.unembedding
    mean = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in slices(len(rows), sizes.types):
        mean += rows[chunk].sum(0, dtype=torch.float64)
    mean /= len(rows)
    centred = rows.double() - mean if sizes.held else None
    fixed, square_norm = torch.zeros(2, len(rows), dtype=torch.float64, device=rows.device)
    if readout.bias is not None:
        fixed += readout.bias.double()
    along = torch.zeros_like(mean)
    result = Unembedding(rows, mean, centred, fixed, square_norm, sizes.types, projection, along)
    if projection is not None:
        for chunk, u in result.chunks():
            along += projection.direction[chunk] @ u
    for chunk, u in result.chunks():
        fixed[chunk] += u @ readout.shift.double()
        square_norm[chunk] = result.project(u, chunk).square().sum(1)
    return result


@dataclass(frozen=True)
class Mlp:
    """The final MLP's output before its own norm at some positions, float64, for families that have one."""

    output: Tensor
    """(n, d): o."""
    variance: Tensor
    """(n, 1): ρ²."""
    written: Tensor
    """(n, d): γ₂∘o, centred where the final norm centres."""


@dataclass(frozen=True)
class PositionBlock:
    """Some measured positions: their stream, probabilities p and directions m. float64 unless said."""

    rows: slice
    x: Tensor
    """(n, d)."""
    variance: Tensor
    """(n, 1): σ²."""
    mlp: Mlp | None
    factors: Tensor
    """(D, n, d): what m is the product of with u, up to a constant; the first is γ∘x/σ."""
    p: Tensor
    """float32 (n, V)."""
    m: Tensor
    """float32 (D, n, V), centred under p."""
    m_row: Tensor
    """(D, n, d): E_p[m·u], whose terms are float32."""
    target_row: Tensor
    """(n, d): u at the target."""
    row: Tensor
    """(n, d): E_p u."""
    square_norm: Tensor
    """(n, 1): E_p ‖u‖²."""
    log_total: Tensor
    """(n, 1): log p = m + b less this, and, where shifts are projected, `Unembedding.logits` less this."""
    m_covariance: Tensor
    """(D, D, n, 1): E_p[m·m]."""
    m_range: Tensor
    """(D, n, 1): max m − min m."""
    m_largest: Tensor
    """(D, n, 1): max |m|."""
    m_target: Tensor
    """(D, n, 1): m at the target."""


def position_block(captured: Capture, u: Unembedding, rows: slice, sizes: Sizes) -> PositionBlock:
    """The logits of these positions and their averages under p, `softmax_rows` at a time."""
    readout = captured.anatomy.readout
    x = _centred(captured, captured.residual[rows].double())
    variance = x.square().mean(1, keepdim=True) + readout.epsilon
    mlp = _mlp(captured, rows, sizes)
    gain = readout.gain.double()
    normed = [gain * x / variance.sqrt()]
    if mlp is not None:
        normed.append(gain * mlp.written)
    factors = torch.stack(normed)
    targets = torch.from_numpy(captured.positions.target[rows]).to(x.device)
    p = torch.empty(len(x), len(u.fixed), device=x.device)
    m = torch.empty(len(factors), *p.shape, device=x.device)
    work = torch.empty(len(m) + 2, sizes.softmax_rows, p.shape[1], dtype=torch.float64, device=x.device)
    parts = [
        _averages(u, factors[:, some], targets[some], p[some], m[:, some], work[:, : some.stop - some.start])
        for some in slices(len(x), sizes.softmax_rows)
    ]
    del work
    averages = (torch.cat(columns, dim=-2) for columns in zip(*parts, strict=True))
    m_row = torch.zeros_like(factors)
    for lane in slices(p.shape[1], sizes.lane):
        types = u.project(u.at(lane), lane).float()
        for m_i, m_row_i in zip(m, m_row, strict=True):
            m_row_i += (p[:, lane] * m_i[:, lane]) @ types
    target_row = u.project(u.at(targets), targets)
    return PositionBlock(rows, x, variance, mlp, factors, p, m, m_row, target_row, *averages)


def _averages(
    u: Unembedding, factors: Tensor, targets: Tensor, p_out: Tensor, m_out: Tensor, work: Tensor
) -> tuple[Tensor, ...]:
    """Fills p (n, V) and m (D, n, V) of some positions; returns PositionBlock's row to m_target.

    factors: (D, n, d), of which m is the product with the unembedding; the first is γ∘x/σ. work: float64 (D + 2, n, V).
    """
    m, p, weighted = work[:-2], work[-2], work[-1]
    for chunk, rows in u.chunks():
        for factor, m_i in zip(factors, m, strict=True):
            torch.mm(factor, rows.T, out=m_i[:, chunk])
    torch.add(m[0], u.fixed, out=p)
    largest = p.amax(1, keepdim=True)
    p -= largest
    p.exp_()
    total = p.sum(1, keepdim=True)
    p /= total
    log_total = largest + total.log()
    kept = None
    if u.projection is not None:
        kept = u.projection.kept
        for m_i, along in zip(m, factors @ u.along, strict=True):
            if kept is not None:
                m_i *= kept
            m_i.addr_(along, u.projection.direction, alpha=-1)
    centre = _along_types(m, p)
    m -= centre
    p_out.copy_(p)
    m_out.copy_(m)
    row = torch.zeros_like(factors[0])
    weights = p if kept is None else torch.mul(p, kept, out=weighted)
    for chunk, rows in u.chunks():
        row.addmm_(weights[:, chunk], rows)
    if u.projection is not None:
        row.addr_(p @ u.projection.direction, u.along, alpha=-1)
    covariance = torch.stack([_along_types(m, torch.mul(p, m_i, out=weighted)) for m_i in m])
    low, high = (v.double() for v in torch.aminmax(m_out, dim=2, keepdim=True))
    return (
        row,
        p @ u.square_norm[:, None],
        log_total - centre[0] if u.projection is None else log_total,
        covariance,
        high - low,
        torch.maximum(high, -low),
        m.gather(2, targets.expand(len(m), -1)[..., None]),
    )


def _along_types(m: Tensor, weights: Tensor) -> Tensor:
    """(D, n, 1): Σ_v weights·m of m (D, n, V) and weights (n, V), without an array of that size."""
    return torch.stack([(m_i[:, None] @ weights[:, :, None])[:, 0] for m_i in m])


def _centred(captured: Capture, values: Tensor) -> Tensor:
    return values - values.mean(1, keepdim=True) if captured.anatomy.readout.centred else values


def _mlp(captured: Capture, rows: slice, sizes: Sizes) -> Mlp | None:
    parts = captured.anatomy
    if parts.post_norm is None:
        return None
    activations = captured.activations[rows]
    output = sum(
        activations[:, some].double() @ parts.output_rows[some].double()
        for some in slices(activations.shape[1], sizes.neurons)
    ) + torch.zeros_like(captured.residual[rows], dtype=torch.float64)
    bias = getattr(parts.mlp_output, "bias", None)
    if bias is not None:
        output += bias.double()
    variance = output.square().mean(1, keepdim=True) + parts.post_norm.epsilon
    return Mlp(output, variance, _centred(captured, parts.post_norm.gain.double() * output))


@dataclass(frozen=True)
class NeuronBlock:
    """Some neurons: what they write and how it reaches the logits. float64 unless said."""

    neurons: slice | Tensor
    rows: Tensor
    """(f, d): w."""
    written: Tensor
    """(f, d): w̃, or γ₂∘w, centred, where a norm follows the MLP."""
    scaled: Tensor
    """(f, d): γ∘w̃."""
    q: Tensor
    """float32 (f, V), of the centred unembedding."""
    q_range: Tensor
    """(f,): max q − min q."""
    q_largest: Tensor
    """(f,): max |q|."""


def written_rows(captured: Capture, neurons: slice | Tensor) -> Tensor:
    """float64 (f, d): w̃, what these neurons write to the final norm's input per unit of activation, but for ρ."""
    parts = captured.anatomy
    rows = parts.output_rows[neurons].double()
    return _centred(captured, rows if parts.post_norm is None else parts.post_norm.gain.double() * rows)


def neuron_block(captured: Capture, u: Unembedding, neurons: slice | Tensor) -> NeuronBlock:
    """These neurons' q; neurons are consecutive, or named by a tensor of indices."""
    parts = captured.anatomy
    rows = parts.output_rows[neurons].double()
    written = written_rows(captured, neurons)
    scaled = parts.readout.gain.double() * written
    q = torch.empty(len(scaled), len(u.fixed), device=scaled.device)
    for chunk, types in u.chunks():
        q[:, chunk] = scaled @ u.project(types, chunk).T
    low, high = (v.double() for v in torch.aminmax(q, dim=1))
    return NeuronBlock(neurons, rows, written, scaled, q, high - low, torch.maximum(high, -low))


def coefficients(captured: Capture, at: PositionBlock, of: NeuronBlock) -> tuple[Tensor, Tensor]:
    """a (D, n, f) and t (n, f) of every pair, float64; 0 for a neuron that never varies."""
    parts = captured.anatomy
    c = _change(captured, at.rows, of.neurons)
    w, mlp, d = of.written, at.mlp, at.x.shape[1]
    if mlp is None or parts.post_norm is None:
        along, moved, offset = [], c, None
        change = 2 * c * (at.x @ w.T) + c.square() * w.square().sum(1)
    else:
        grown = (2 * c * (mlp.output @ of.rows.T) + c.square() * of.rows.square().sum(1)) / d
        after = _moved_variance(mlp.variance, grown, parts.post_norm.epsilon, mlp.output, of.rows, c, None).sqrt()
        before = mlp.variance.sqrt()
        alpha, moved = -grown / (before * after * (before + after)), c / after
        along, offset = [alpha], (alpha, mlp.written)
        change = (
            2 * alpha * (at.x * mlp.written).sum(1, keepdim=True)
            + 2 * moved * (at.x @ w.T)
            + alpha.square() * mlp.written.square().sum(1, keepdim=True)
            + 2 * alpha * moved * (mlp.written @ w.T)
            + moved.square() * w.square().sum(1)
        )
    change = change / d
    after = _moved_variance(at.variance, change, parts.readout.epsilon, at.x, w, moved, offset).sqrt()
    before = at.variance.sqrt()
    return torch.stack([-change / (after * (before + after)), *(b / after for b in along)]), moved / after


def _moved_variance(
    variance: Tensor,
    change: Tensor,
    epsilon: float,
    x: Tensor,
    w: Tensor,
    by: Tensor,
    offset: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """variance (n, 1) plus change (n, f), from the moved vector itself where most of it vanishes and they cancel.

    x (n, d) moves by `by` (n, f) times w (f, d), and by the product of offset's (n, f) and (n, d).
    """
    moved = variance + change
    for some in (change < -variance / 2).nonzero().split(RECOMPUTED):
        row, neuron = some.T
        vector = x[row] + by[row, neuron][:, None] * w[neuron]
        if offset is not None:
            vector += offset[0][row, neuron][:, None] * offset[1][row]
        moved[row, neuron] = vector.square().mean(1) + epsilon
    return moved


def _change(captured: Capture, rows: slice, neurons: slice | Tensor) -> Tensor:
    """c (n, f): what ablation adds to each activation; exactly 0 for a neuron that never varies."""
    moments = captured.moments
    c = moments.mean[neurons] - captured.activations[rows, neurons].double()
    c[:, moments.minimum[neurons] == moments.maximum[neurons]] = 0.0
    return c
