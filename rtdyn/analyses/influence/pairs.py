"""The first two moments of the shift z that each neuron's ablation makes of the logits, and how far they may be off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from rtdyn.analyses.influence.block_sizes import slices
from rtdyn.analyses.influence.logit_shift import NeuronBlock
from rtdyn.analyses.influence.position_block import PositionBlock

EPSILON = torch.finfo(torch.float32).eps
PRODUCT_ROUNDING = {torch.float32: 2.0**-13, torch.bfloat16: 2.0**-6}
"""Relative error of an entry of a product over a lane of types, by the precision of its factors. It is 2048 sums of
ε/2, or three roundings to bfloat16, of 2⁻⁸ each: both factors and the result."""
TF32_ROUNDING = 2.0**-9
"""The same where CUDA may round float32 factors to TF32, by 2⁻¹¹ each."""
SUM_ROUNDING = 24.0
"""Error of S, terms included, in units of ε times itself."""
Z_ROUNDING = 2.5
"""Error of z in float32, in units of ε·max|z|."""
DOUBLE_ROUNDING = 2.0**-40
"""Error of μ − z_y in float64, in units of max|z|."""


@dataclass(frozen=True)
class Pairs:
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


def moments(at: PositionBlock, of: NeuronBlock, a: Tensor, t: Tensor, lane: int) -> Pairs:
    """First and second moments of z. a (D, n, f) and t (n, f): of `coefficients`; lane: types of a float32 sum."""
    precision = product_precision(t.device.type)
    p_q2 = torch.zeros_like(t)
    for types in slices(of.q.shape[1], lane):
        p_q2 += at.p[:, types].to(precision) @ of.q[:, types].square().to(precision).T
    p_q = at.row @ of.scaled.T
    rounding = product_rounding(t.device.type, precision)
    variance_error = rounding * t.square() * p_q2
    variance = t.square() * (p_q2 - p_q.square())
    length = product_rounding(t.device.type, torch.float32) * of.scaled.norm(dim=1)
    for i, a_i in enumerate(a):
        variance += 2 * a_i * t * (at.m_row[i] @ of.scaled.T)
        variance_error += 2 * a_i.abs() * t.abs() * (at.m_covariance[i, i] * at.square_norm).sqrt() * length
        for j, a_j in enumerate(a):
            variance += a_i * a_j * at.m_covariance[i, j]
    spread = t.abs() * of.q_range + (a.abs() * at.m_range).sum(0)
    return Pairs(
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


def product_rounding(device: str, precision: torch.dtype) -> float:
    """Relative error of an entry of a product over a lane of types, on this device."""
    if device == "cuda" and precision == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        return TF32_ROUNDING
    return PRODUCT_ROUNDING[precision]
