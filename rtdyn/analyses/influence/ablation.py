"""Mean-ablation influence of every final-MLP neuron on the loss, by token class (METHODS §2).

Replacing neuron i's activation a_ni by its mean ā_i changes the loss at position n by Δ_ni. `certified.py` computes
every Δ_ni with a proven error, against the float32 forward pass. Here they become the two influences of each class C.
A_i(C) is mean |Δ_ni| and Δ_i(C) is mean Δ_ni, with their standard errors and error bounds. The error of ā_i is part of
the standard errors, to first order. A piece of text that shifts ā_i by x shifts mean Δ_ni by x·mean(Δ_ni/c_ni).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.influence.certified import DeltaBlock, delta_blocks
from rtdyn.analyses.statistics import clustered_se, clusters, indicator
from rtdyn.capture.forward_pass import Capture

TOLERANCE = 1e-5
"""Largest error a neuron's class mean may carry, in nats."""
MEMORY_BYTES = 2 * 2**30
"""What the blocks may take beyond the model and the capture."""


@dataclass(frozen=True)
class Ranking:
    """The influence by which neurons are ranked; in nats, float64 (F,)."""

    values: Tensor
    se: Tensor
    window_sum: Tensor
    """float64 (w, F): the sums over each window of which `values` are means, signs apart."""


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
    clusters: int
    """Independent pieces of text, g, that hold positions of the class; the standard errors are theirs."""
    window_ids: Tensor
    """int64 (w,): the windows that hold positions of the class."""
    window_cluster: Tensor
    """int64 (w,): the cluster, 0 to g − 1, that each of them is of."""
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

    def ranking(self, rank_by: str) -> Ranking:
        """What ranks neurons: |mean Δ| by `abs_mean`, else mean |Δ|."""
        if rank_by == "abs_mean":
            return Ranking(self.mean.abs(), self.mean_se, self.window_sum)
        return Ranking(self.mean_abs, self.mean_abs_se, self.window_abs_sum)

    def by_cluster(self, by_window: Tensor) -> Tensor:
        """float64 (g, …): sums over clusters of sums over windows (w, …)."""
        return indicator(self.window_cluster, self.clusters) @ by_window.double()


@dataclass(frozen=True)
class PseudoInfluence:
    """Sums over pseudo-classes of positions (METHODS §3(d)), apart for the two halves of the windows."""

    n: Tensor
    """int64 (2, draws): positions of each pseudo-class in each half."""
    sum: Tensor
    """float64 (2, draws, F): Σ Δ_ni."""
    abs_sum: Tensor
    """float64 (2, draws, F): Σ |Δ_ni|."""

    def ranking(self, rank_by: str) -> Tensor:
        """float64 (draws, F): what ranks neurons in each pseudo-class, as `ClassInfluence.ranking` has it."""
        n = self.n.sum(0)[:, None]
        return self.sum.sum(0).abs() / n if rank_by == "abs_mean" else self.abs_sum.sum(0) / n


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
    memory_bytes: int = MEMORY_BYTES,
    pseudo_classes: Tensor | None = None,
    half: Tensor | None = None,
    cluster: np.ndarray | None = None,
) -> Influence:
    """Mean-ablation influence of every neuron on every class the capture was measured for.

    pseudo_classes: bool (draws, N), whose influences are summed too, apart where half (N,) is 0 and 1.
    decile_of: int64 (V,), the frequency decile of each type as a target, −1 for none. tolerance: what a neuron's class
    mean may err by, in nats. cluster: int (windows,), the independent piece of text that each window is of, by default
    itself: standard errors are those of clusters.
    """
    positions = captured.positions
    device = captured.residual.device
    text = _text(captured, cluster)
    decile = decile_of.to(device)[torch.from_numpy(positions.target).to(device)]
    members = {c.name: torch.from_numpy(positions.members(c.name)).to(device) for c in positions.classes}
    sums = {name: _ClassSums(captured, member, text, decile, deciles) for name, member in members.items()}
    pseudo = None if pseudo_classes is None or half is None else _PseudoSums(pseudo_classes, half, captured)
    refined = 0
    for block in delta_blocks(captured, list(members.values()), tolerance, memory_bytes):
        for of_class in sums.values():
            of_class.add(block)
        if pseudo is not None:
            pseudo.add(block)
        refined += block.refined
    return Influence(
        {name: of_class.result() for name, of_class in sums.items()},
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

    def __init__(self, captured: Capture, member: Tensor, text: _Text, decile: Tensor, deciles: int) -> None:
        neurons, windows = captured.activations.shape[1], text.window
        self.captured, self.member, self.text = captured, member, text
        self.windows = clusters(windows, member)
        self.decile = decile
        self.decile_n = indicator(decile[member], deciles).sum(1).long()
        zeros = partial(torch.zeros, dtype=torch.float64, device=windows.device)
        self.window_sum, self.window_abs_sum = zeros(2, len(self.windows.ids), neurons)
        self.decile_sum, self.decile_abs_sum = zeros(2, deciles, neurons)
        self.error, self.slope, self.abs_slope = zeros(3, neurons)

    def add(self, block: DeltaBlock) -> None:
        member = self.member[block.rows]
        delta = block.delta[member]
        by_window = indicator(self.windows.index[block.rows][member], len(self.windows.ids))
        by_decile = indicator(self.decile[block.rows][member], len(self.decile_n))
        self.window_sum[:, block.neurons] += by_window @ delta
        self.decile_sum[:, block.neurons] += by_decile @ delta
        # Δ is nearly linear in c = ā − a, so that Δ/c is what it changes by with ā
        activations = self.captured.activations[block.rows, block.neurons][member].double()
        slope = (delta / (self.captured.moments.mean[block.neurons] - activations)).nan_to_num(0.0, 0.0, 0.0)
        self.slope[block.neurons] += slope.sum(0)
        self.abs_slope[block.neurons] += (slope * delta.sign()).sum(0)
        delta = delta.abs()
        self.window_abs_sum[:, block.neurons] += by_window @ delta
        self.decile_abs_sum[:, block.neurons] += by_decile @ delta
        self.error[block.neurons] += (block.half_width[member] + block.rounding[member]).sum(0)

    def result(self) -> ClassInfluence:
        return class_influence(
            self.windows.ids,
            torch.unique(self.text.cluster[self.windows.ids], return_inverse=True)[1],
            self.windows.n,
            self.window_sum,
            self.window_abs_sum,
            self.error / self.windows.n.sum(),
            (self.decile_n, self.decile_sum, self.decile_abs_sum),
            None if self.text.mean_parts is None else self._drift(self.text.mean_parts),
        )

    def _drift(self, mean_parts: Tensor) -> Drift:
        n = self.windows.n.sum()
        return Drift(self.text.cluster[self.windows.ids], mean_parts, self.slope / n, self.abs_slope / n)


@dataclass(frozen=True)
class _Text:
    """The independent pieces of the text."""

    window: Tensor
    """int64 (N,): each measured position's window."""
    cluster: Tensor
    """int64 (windows,): the piece that each window is of, from 0."""
    mean_parts: Tensor | None
    """float64 (pieces, F): `Capture.mean_parts` summed over each."""


def _text(captured: Capture, cluster: np.ndarray | None) -> _Text:
    device = captured.residual.device
    window = torch.from_numpy(captured.positions.window).to(device)
    count = len(captured.mean_parts) if captured.mean_parts is not None else int(window.max()) + 1
    of_window = torch.arange(count, device=device) if cluster is None else torch.from_numpy(cluster).to(device)
    if captured.mean_parts is None:
        return _Text(window, of_window, None)
    return _Text(window, of_window, indicator(of_window, int(of_window.max()) + 1) @ captured.mean_parts)


@dataclass(frozen=True)
class Drift:
    """How the error of the mean activation ā enters a class's influence, to first order in it."""

    cluster: Tensor
    """int64 (w,): the piece of text, among all, that each window of the class is of."""
    mean_parts: Tensor
    """float64 (pieces, F): what each adds to ā beyond its share."""
    slope: Tensor
    """float64 (F,): what mean Δ changes by with ā, nats per unit of activation."""
    abs_slope: Tensor
    """The same of mean |Δ|."""


def _with_drift(window_sum: Tensor, window_n: Tensor, drift: Drift, slope: Tensor) -> Tensor:
    """float64 (F,): standard error of a class mean with that of ā worked in."""
    by_piece = indicator(drift.cluster, len(drift.mean_parts))
    return clustered_se(by_piece @ window_sum, by_piece @ window_n.double(), slope * drift.mean_parts)


def class_influence(
    window_ids: Tensor,
    window_cluster: Tensor,
    window_n: Tensor,
    window_sum: Tensor,
    window_abs_sum: Tensor,
    error_bound: Tensor,
    deciles: tuple[Tensor, Tensor, Tensor],
    drift: Drift | None = None,
) -> ClassInfluence:
    """A class's influence from what its windows hold, as the fields of `ClassInfluence`: (w,), and sums (w, F).

    deciles: n (deciles,), Σ Δ and Σ |Δ| (deciles, F). drift: of ā, None to take ā as given.
    """
    n, clusters = int(window_n.sum()), int(window_cluster.max()) + 1
    if drift is None:
        by_cluster = indicator(window_cluster, clusters)
        cluster_n = by_cluster @ window_n.double()
        mean_se, mean_abs_se = (clustered_se(by_cluster @ v, cluster_n) for v in (window_sum, window_abs_sum))
    else:
        mean_se = _with_drift(window_sum, window_n, drift, drift.slope)
        mean_abs_se = _with_drift(window_abs_sum, window_n, drift, drift.abs_slope)
    return ClassInfluence(
        n=n,
        mean_abs=window_abs_sum.sum(0) / n,
        mean_abs_se=mean_abs_se,
        mean=window_sum.sum(0) / n,
        mean_se=mean_se,
        error_bound=error_bound,
        clusters=clusters,
        window_ids=window_ids,
        window_cluster=window_cluster,
        window_n=window_n,
        window_sum=window_sum,
        window_abs_sum=window_abs_sum,
        decile_n=deciles[0],
        decile_sum=deciles[1],
        decile_abs_sum=deciles[2],
    )
