"""Some measured positions: their stream, their probabilities and the directions in which ablation moves logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rtdyn.analyses.influence.bend import Bend, BendOf, along_types
from rtdyn.analyses.influence.block_sizes import Sizes, slices
from rtdyn.analyses.influence.likely import Likely, likely_types
from rtdyn.analyses.influence.unembedding import Unembedding, centred
from rtdyn.capture.forward_pass import Capture


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
    """(n, 1): log p = m + b less this, and, where shifts are projected or capped, `Unembedding.logits` less this."""
    m_covariance: Tensor
    """(D, D, n, 1): E_p[m·m]."""
    m_range: Tensor
    """(D, n, 1): max m − min m."""
    m_largest: Tensor
    """(D, n, 1): max |m|."""
    m_target: Tensor
    """(D, n, 1): m at the target."""
    bend: Bend | None = field(default=None, kw_only=True)
    """Where the logits are capped."""
    likely: tuple[Likely, ...] = field(default=(), kw_only=True)
    """Where they are not."""

    def log_probabilities(self, u: Unembedding) -> Tensor:
        """log p, float64 (n, V), up to the round-off of m, without a projection."""
        logits = self.m[0] + u.fixed
        if self.bend is not None:
            logits = u.capped(logits.add_(self.bend.level[0]))
        return logits.sub_(self.log_total)


def position_block(captured: Capture, u: Unembedding, rows: slice, sizes: Sizes) -> PositionBlock:
    """The logits of these positions and their averages under p, `softmax_rows` at a time."""
    return position_blocks(captured, [u], rows, sizes)[0]


def position_blocks(
    captured: Capture, unembeddings: Sequence[Unembedding], rows: slice, sizes: Sizes
) -> list[PositionBlock]:
    """The block by each of the projections of one unembedding, whose products with the logits are made once.

    Where the logits are capped, one unembedding without a projection.
    """
    readout = captured.anatomy.readout
    x = centred(captured, captured.residual[rows].double())
    variance = x.square().mean(1, keepdim=True) + readout.epsilon
    mlp = _mlp(captured, rows, sizes)
    gain = readout.gain.double()
    normed = [gain * x / variance.sqrt()]
    if mlp is not None:
        normed.append(gain * mlp.written)
    factors = torch.stack(normed)
    targets = torch.from_numpy(captured.positions.target[rows]).to(x.device)
    d, vocabulary = len(factors), len(unembeddings[0].fixed)
    p = torch.empty(len(x), vocabulary, device=x.device)
    all_m = torch.empty(len(unembeddings), d, *p.shape, device=x.device)
    arrays = d + 2 + (d if len(unembeddings) > 1 else 0)
    work = torch.empty(arrays, sizes.softmax_rows, vocabulary, dtype=torch.float64, device=x.device)
    bend = None if readout.cap is None else BendOf(unembeddings[0], len(x))
    parts = [
        _averages(
            unembeddings,
            factors[:, some],
            targets[some],
            p[some],
            all_m[:, :, some],
            work[:, : some.stop - some.start],
            some,
            bend,
        )
        for some in slices(len(x), sizes.softmax_rows)
    ]
    del work
    blocks = []
    for u, m, of_u in zip(unembeddings, all_m, zip(*parts, strict=True), strict=True):
        averages = (torch.cat(columns, dim=-2) for columns in zip(*of_u, strict=True))
        m_row = torch.zeros_like(factors)
        for lane in slices(vocabulary, sizes.lane):
            types = u.project(u.at(lane), lane).float()
            for m_i, m_row_i in zip(m, m_row, strict=True):
                m_row_i += (p[:, lane] * m_i[:, lane]) @ types
        target_row = u.project(u.at(targets), targets)
        block = PositionBlock(rows, x, variance, mlp, factors, p, m, m_row, target_row, *averages)
        blocks.append(
            replace(block, likely=likely_types(p, m))
            if bend is None
            else replace(block, bend=bend.result(p, m, targets, sizes.lane))
        )
    return blocks


def _averages(
    unembeddings: Sequence[Unembedding],
    factors: Tensor,
    targets: Tensor,
    p_out: Tensor,
    m_out: Tensor,
    work: Tensor,
    some: slice,
    bend: BendOf | None,
) -> list[tuple[Tensor, ...]]:
    """Fills p (n, V) and m (projections, D, n, V) of some positions; returns PositionBlock's row to m_target of each.

    factors: (D, n, d), of which m is the product with the unembedding; the first is γ∘x/σ. work: float64 (D + 2, n, V),
    with D more where there are several projections. bend: gets what there is of `some`, where logits are capped.
    """
    d = len(factors)
    logits, p, weighted, moved = work[:d], work[d], work[d + 1], work[d + 2 :]
    first = unembeddings[0]
    for chunk, rows in first.chunks():
        for factor, of_factor in zip(factors, logits, strict=True):
            torch.mm(factor, rows.T, out=of_factor[:, chunk])
    torch.add(logits[0], first.fixed, out=p)
    level = factors @ first.mean[:, None]
    bent = None if bend is None else bend.capped(some, p.add_(level[0]))
    largest = p.amax(1, keepdim=True)
    p -= largest
    p.exp_()
    total = p.sum(1, keepdim=True)
    p /= total
    p_out.copy_(p)
    log_total = largest + total.log()
    row = _mean_row(first, p)
    averages = []
    for i, u in enumerate(unembeddings):
        m = logits if i == len(unembeddings) - 1 else moved.copy_(logits)
        centre, *of_u = _projected(u, factors, targets, p, row, log_total, m, weighted, m_out[i])
        averages.append(tuple(of_u))
        if bend is not None and bent is not None:
            level += centre
            bend.add(p, m, bent, level, of_u[-1][0] + level[0] + u.fixed[targets, None])
    return averages


def _mean_row(u: Unembedding, weights: Tensor) -> Tensor:
    """Σ_v weights·u_v, float64 (n, d), of weights (n, V)."""
    row = torch.zeros(len(weights), len(u.mean), dtype=torch.float64, device=weights.device)
    for chunk, rows in u.chunks():
        row.addmm_(weights[:, chunk], rows)
    return row


def _projected(
    u: Unembedding,
    factors: Tensor,
    targets: Tensor,
    p: Tensor,
    row: Tensor,
    log_total: Tensor,
    m: Tensor,
    weighted: Tensor,
    m_out: Tensor,
) -> tuple[Tensor, ...]:
    """E_p m (D, n, 1), and PositionBlock's row to m_target. row: (n, d), E_p u. m: float64 (D, n, V), as it is without
    u's projection, which is overwritten, as `weighted` (n, V) is; m_out: float32, filled."""
    kept = None if u.projection is None else u.projection.kept
    if u.projection is not None:
        for m_i, along in zip(m, factors @ u.along, strict=True):
            if kept is not None:
                m_i *= kept
            m_i.addr_(along, u.projection.direction, alpha=-1)
        row = row.clone() if kept is None else _mean_row(u, torch.mul(p, kept, out=weighted))
        row.addr_(p @ u.projection.direction, u.along, alpha=-1)
    centre = along_types(m, p)
    m -= centre
    m_out.copy_(m)
    covariance = torch.stack([along_types(m, torch.mul(p, m_i, out=weighted)) for m_i in m])
    low, high = (v.double() for v in torch.aminmax(m_out, dim=2, keepdim=True))
    return (
        centre,
        row,
        p @ u.square_norm[:, None],
        log_total - centre[0] if u.projection is None and u.cap is None else log_total,
        covariance,
        high - low,
        torch.maximum(high, -low),
        m.gather(2, targets.expand(len(m), -1)[..., None]),
    )


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
    return Mlp(output, variance, centred(captured, parts.post_norm.gain.double() * output))
