"""Mean-ablation influence of every final-MLP neuron on the loss, by token class (METHODS §2).

Replacing neuron i's activation a_ni by its mean ā_i changes the loss at position n by Δ_ni; `certified.py`
computes every Δ_ni with a proven error. Here they become the two influences of each class C,
A_i(C) = mean |Δ_ni| and Δ_i(C) = mean Δ_ni, with their standard errors and error bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rtdyn.analyses.certified import delta_blocks
from rtdyn.capture import Capture

TOLERANCE = 1e-5
"""Largest error a neuron's class mean may carry, in nats."""

MEMORY_BYTES = 2 * 2**30
"""What the blocks may take beyond the model and the capture."""


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
    decile_n: Tensor
    """int64 (deciles,): the class's measured positions by frequency decile of their targets."""
    decile_sum: Tensor
    """float64 (deciles, F): Σ Δ_ni over them."""
    decile_abs_sum: Tensor


@dataclass(frozen=True)
class Influence:
    """Influence on every class of a run."""

    classes: dict[str, ClassInfluence]
    refined_share: float
    """Share of the pairs whose second-order interval was too wide."""


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
    parts: dict[str, list[ClassInfluence]] = {name: [] for name in members}
    refined = 0
    for block in delta_blocks(captured, list(members.values()), tolerance, memory_bytes):
        error = block.half_width + block.rounding
        for name, member in members.items():
            parts[name].append(
                _class_influence(block.delta[member], error[member], windows[member], decile[member], deciles)
            )
        refined += block.refined
    return Influence({name: _join(blocks) for name, blocks in parts.items()}, refined / captured.activations.numel())


def _class_influence(delta: Tensor, error: Tensor, windows: Tensor, decile: Tensor, deciles: int) -> ClassInfluence:
    ids, index, counts = torch.unique(windows, return_inverse=True, return_counts=True)
    by_window, by_decile = _indicator(index, len(ids)), _indicator(decile, deciles)
    sums, abs_sums = by_window @ delta, by_window @ delta.abs()
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
        decile_n=by_decile.sum(1).long(),
        decile_sum=by_decile @ delta,
        decile_abs_sum=by_decile @ delta.abs(),
    )


def _indicator(index: Tensor, size: int) -> Tensor:
    """float64 (size, n): 1 where index equals the row; a product with it sums groups in a fixed order on any device."""
    return (index == torch.arange(size, device=index.device)[:, None]).double()


def _join(blocks: list[ClassInfluence]) -> ClassInfluence:
    """One result from those of consecutive neuron blocks, which share n and windows."""
    first = blocks[0]
    vectors = ("mean_abs", "mean_abs_se", "mean", "mean_se", "error_bound")
    matrices = ("window_sum", "window_abs_sum", "decile_sum", "decile_abs_sum")
    return ClassInfluence(
        n=first.n,
        window_ids=first.window_ids,
        window_n=first.window_n,
        decile_n=first.decile_n,
        **{name: torch.cat([getattr(b, name) for b in blocks]) for name in vectors},
        **{name: torch.cat([getattr(b, name) for b in blocks], 1) for name in matrices},
    )


def jackknife_se(statistic: Callable[[Tensor], Tensor], sums: Tensor, counts: Tensor) -> float:
    """Standard error, leaving out a window at a time, of a statistic of class means; NaN for one window.

    statistic maps means (w, F) to (w,); sums (w, F) and counts (w,) are those of the windows.
    """
    windows = len(counts)
    left = (sums.sum(0) - sums) / (counts.sum() - counts)[:, None]
    values = statistic(left)
    return (
        float(((values - values.mean()).square().sum() * (windows - 1) / windows).sqrt()) if windows > 1 else math.nan
    )


def clustered_se(sums: Tensor, counts: Tensor) -> Tensor:
    """Standard error of Σ sums / Σ counts, rows of `sums` (w, F) being independent clusters; NaN for one."""
    n, clusters = counts.sum(), len(counts)
    if clusters < 2:
        return torch.full_like(sums[0], torch.nan)
    residuals = sums - counts[:, None] * (sums.sum(0) / n)
    return (residuals.square().sum(0) * clusters / (clusters - 1)).sqrt() / n
