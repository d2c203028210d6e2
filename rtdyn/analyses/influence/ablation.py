"""Mean-ablation influence of every final-MLP neuron on the loss, by token class (METHODS §2).

Replacing neuron i's activation a_ni by its mean ā_i changes the loss at position n by Δ_ni; `certified.py`
computes every Δ_ni with a proven error. Here they become the two influences of each class C,
A_i(C) = mean |Δ_ni| and Δ_i(C) = mean Δ_ni, with their standard errors and error bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rtdyn.analyses.influence.certified import DeltaBlock, delta_blocks
from rtdyn.analyses.statistics import _indicator, clustered_se
from rtdyn.capture.forward_pass import Capture

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
class PseudoInfluence:
    """Sums over pseudo-classes of positions (METHODS §3d), apart for the two halves of the windows."""

    n: Tensor
    """int64 (2, draws): positions of each pseudo-class in each half."""
    sum: Tensor
    """float64 (2, draws, F): Σ Δ_ni."""
    abs_sum: Tensor
    """float64 (2, draws, F): Σ |Δ_ni|."""


@dataclass(frozen=True)
class Influence:
    """Influence on every class of a run."""

    classes: dict[str, ClassInfluence]
    pseudo: PseudoInfluence | None
    """Of the pseudo-classes, where there are any."""
    refined_share: float
    """Share of the pairs whose second-order interval was too wide."""


def influence(
    captured: Capture,
    decile_of: Tensor,
    deciles: int,
    *,
    tolerance: float = TOLERANCE,
    se_share: float = 0.0,
    memory_bytes: int = MEMORY_BYTES,
    pseudo_classes: Tensor | None = None,
    half: Tensor | None = None,
) -> Influence:
    """Mean-ablation influence of every neuron on every class the capture was measured for.

    pseudo_classes: bool (draws, N), whose influences are summed too, apart where half (N,) is 0 and 1.
    decile_of: int64 (V,), the frequency decile of each type as a target, −1 for none. tolerance in nats; with
    `se_share`, a neuron's class mean may err by that share of its standard error where this is more.
    Standard errors take windows as clusters: positions of one window are not independent.
    """
    positions = captured.positions
    device = captured.residual.device
    windows = torch.from_numpy(positions.window).to(device)
    decile = decile_of.to(device)[torch.from_numpy(positions.target).to(device)]
    members = {c.name: torch.from_numpy(positions.members(c.name)).to(device) for c in positions.classes}
    sums = {
        name: _ClassSums(member, windows, decile, deciles, captured.activations.shape[1])
        for name, member in members.items()
    }
    pseudo = None if pseudo_classes is None or half is None else _PseudoSums(pseudo_classes, half, captured)
    refined = 0
    for block in delta_blocks(captured, list(members.values()), tolerance, memory_bytes, se_share):
        for own in sums.values():
            own.add(block)
        if pseudo is not None:
            pseudo.add(block)
        refined += block.refined
    return Influence(
        {name: own.result() for name, own in sums.items()},
        None if pseudo is None else PseudoInfluence(pseudo.n, pseudo.sum, pseudo.abs_sum),
        refined / captured.activations.numel(),
    )


class _PseudoSums:
    """Sums of Δ over pseudo-classes, block after block."""

    def __init__(self, pseudo_classes: Tensor, half: Tensor, captured: Capture) -> None:
        device = captured.residual.device
        self.weights = (pseudo_classes[None] & (half == torch.arange(2)[:, None])[:, None]).to(device)
        self.n = self.weights.sum(2)
        shape = (*self.n.shape, captured.activations.shape[1])
        self.sum, self.abs_sum = torch.zeros(2, *shape, dtype=torch.float64, device=device)

    def add(self, block: DeltaBlock) -> None:
        weights = self.weights[:, :, block.rows].double()
        self.sum[:, :, block.neurons] += weights @ block.delta
        self.abs_sum[:, :, block.neurons] += weights @ block.delta.abs()


class _ClassSums:
    """Sums of Δ over one class's positions by window and by decile, block after block."""

    def __init__(self, member: Tensor, windows: Tensor, decile: Tensor, deciles: int, neurons: int) -> None:
        self.member = member
        ids, index, self.window_n = torch.unique(windows[member], return_inverse=True, return_counts=True)
        self.window_ids = ids
        self.window = torch.full_like(windows, -1)
        self.window[member] = index
        self.decile = decile
        self.decile_n = _indicator(decile[member], deciles).sum(1).long()
        zeros = partial(torch.zeros, dtype=torch.float64, device=windows.device)
        self.window_sum, self.window_abs_sum = zeros(2, len(ids), neurons)
        self.decile_sum, self.decile_abs_sum = zeros(2, deciles, neurons)
        self.error = zeros(neurons)

    def add(self, block: DeltaBlock) -> None:
        own = self.member[block.rows]
        delta = block.delta[own]
        by_window = _indicator(self.window[block.rows][own], len(self.window_ids))
        by_decile = _indicator(self.decile[block.rows][own], len(self.decile_n))
        self.window_sum[:, block.neurons] += by_window @ delta
        self.decile_sum[:, block.neurons] += by_decile @ delta
        delta = delta.abs()
        self.window_abs_sum[:, block.neurons] += by_window @ delta
        self.decile_abs_sum[:, block.neurons] += by_decile @ delta
        self.error[block.neurons] += (block.half_width[own] + block.rounding[own]).sum(0)

    def result(self) -> ClassInfluence:
        n = int(self.member.sum())
        return ClassInfluence(
            n=n,
            mean_abs=self.window_abs_sum.sum(0) / n,
            mean_abs_se=clustered_se(self.window_abs_sum, self.window_n),
            mean=self.window_sum.sum(0) / n,
            mean_se=clustered_se(self.window_sum, self.window_n),
            error_bound=self.error / n,
            window_ids=self.window_ids,
            window_n=self.window_n,
            window_sum=self.window_sum,
            window_abs_sum=self.window_abs_sum,
            decile_n=self.decile_n,
            decile_sum=self.decile_sum,
            decile_abs_sum=self.decile_abs_sum,
        )
