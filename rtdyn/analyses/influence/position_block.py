"""Some measured positions: their stream, their probabilities and the directions in which ablation moves logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.block_sizes import Sizes, slices
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
    x = centred(captured, captured.residual[rows].double())
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
