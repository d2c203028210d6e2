"""How mean ablation of a neuron moves every logit: blocks of positions, blocks of neurons, a pair's coefficients.

Replacing neuron i's activation a_ni by its mean ā_i moves the final residual stream r_n by c·w_i with c = ā_i − a_ni.
Only the final norm and the unembedding follow. With

    x = r − mean(r),   w̃ = w − mean(w),   σ² = ‖x‖²/d + ε,   δ = (2c⟨x,w̃⟩ + c²‖w̃‖²)/d,

the ablated norm is σ' = √(σ² + δ), and every logit moves by

    z_v = a·m_v + t·q_v,   a = −δ/(σ'(σ + σ')),   t = c/σ',   m_v = l_v − b_v,   q_v = ⟨γ∘w̃, u_v⟩

where b_v = ⟨β, u_v⟩ + bias_v is the part of logit l_v that the norm does not scale. For RMSNorm x = r, w̃ = w.

An RMSNorm of gain γ₂ and scale ρ may stand between the MLP's output o and the stream. Then r moves by

    α·γ₂∘o + (c/ρ')·γ₂∘w,   α = 1/ρ' − 1/ρ.

z has one direction more: h_v = ⟨γ∘γ₂∘o, u_v⟩, with coefficient α/σ'. Below, m stands for the D = 1 or 2 directions that
a position has; the definitions are METHODS §2(a).

A shift may be projected (`Projection`): its part along a fixed vector of the vocabulary taken back, the types left
out unmoved. Both are linear in z, so m, q and u are replaced by their projections and p stays as it is.

Products with vectors of width d are float64 but for E_p[m u]; what has the vocabulary's length is rounded to float32
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.influence.position_block import PositionBlock
from rtdyn.analyses.influence.unembedding import Unembedding, centred
from rtdyn.capture.forward_pass import Capture

RECOMPUTED = 1024
"""Pairs whose moved vectors are formed at a time."""


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
    level: Tensor
    """(f,): what the mean row of the unembedding adds to q at every type, which counts where logits are capped."""


def written_rows(captured: Capture, neurons: slice | Tensor) -> Tensor:
    """float64 (f, d): w̃, what these neurons write to the final norm's input per unit of activation, but for ρ."""
    parts = captured.anatomy
    rows = parts.output_rows[neurons].double()
    return centred(captured, rows if parts.post_norm is None else parts.post_norm.gain.double() * rows)


def neuron_block(captured: Capture, u: Unembedding, neurons: slice | Tensor) -> NeuronBlock:
    """These neurons' q, (k, V); neurons are consecutive, or named by a tensor (k,) of indices."""
    return neuron_blocks(captured, [u], neurons)[0]


def neuron_blocks(captured: Capture, unembeddings: Sequence[Unembedding], neurons: slice | Tensor) -> list[NeuronBlock]:
    """These neurons' q, (k, V), by each of the projections of one unembedding, which is multiplied with once."""
    parts = captured.anatomy
    rows = parts.output_rows[neurons].double()
    written = written_rows(captured, neurons)
    scaled = parts.readout.gain.double() * written
    first = unembeddings[0]
    level = scaled @ first.mean
    q = torch.empty(len(unembeddings), len(scaled), len(first.fixed), device=scaled.device)
    for chunk, types in first.chunks():
        shift = scaled @ types.T
        for u, q_u in zip(unembeddings, q, strict=True):
            q_u[:, chunk] = u.project_shift(shift, scaled, chunk)
    blocks = []
    for q_u in q:
        low, high = (v.double() for v in torch.aminmax(q_u, dim=1))
        blocks.append(NeuronBlock(neurons, rows, written, scaled, q_u, high - low, torch.maximum(high, -low), level))
    return blocks


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
