"""How much of each neuron's influence goes through token frequency (METHODS §2(c); [CR]).

Mean ablation moves the logits by z (`logit_shift.py`), centred over the vocabulary. The frozen loss takes back what
lies along the unit vector û of log unigram frequency: z' = z − ⟨z, û⟩û. û is centred over the types that have counts.
mediation = 1 − mean|Δ_frozen| / mean|Δ|. `longtail` masks û to a band of types and makes it a unit vector again. It
leaves the logits of all other types as they were before ablation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.influence.ablation import MEMORY_BYTES, TOLERANCE, ClassInfluence
from rtdyn.analyses.influence.certified import Certified, DeltaBlock, delta_blocks_together
from rtdyn.analyses.influence.pairs import DOUBLE_ROUNDING
from rtdyn.analyses.influence.unembedding import Projection
from rtdyn.analyses.statistics import as_numpy, clusters, indicator, jackknife_se
from rtdyn.capture.forward_pass import Capture
from rtdyn.undefined import Undefined

RELATIVE = 0.01
"""Error that a frozen mean |Δ| may carry, as a share of the neuron's mean |Δ|."""


def unigram_direction(counts: np.ndarray, logits: int, band: np.ndarray | None = None) -> Projection | Undefined:
    """The projection that freezes the unigram direction, or why there is none.

    counts: (types,) occurrences of each type, at most `logits` of them; ids beyond are padding, where û is 0.
    band: bool (logits,), the types of `longtail`; None for `full`. Permuted counts give a null direction.
    Raises ValueError for more counts than logits or a band of another length.
    """
    if len(counts) > logits:
        raise ValueError(f"{len(counts)} counts are more than the {logits} logits")
    if band is not None and band.shape != (logits,):
        raise ValueError(f"the band has shape {band.shape}, not ({logits},)")
    log_f = np.log(counts.astype(np.float64) + 1)
    direction = np.zeros(logits)
    direction[: len(counts)] = log_f - log_f.mean()
    if band is not None:
        direction[~band] = 0.0
    norm = float(np.linalg.norm(direction))
    if norm <= 1e-12 * len(counts) ** 0.5:
        return Undefined(
            "all counted types are equally frequent" if band is None else "the band has no unigram direction"
        )
    kept = None if band is None else torch.from_numpy(band.astype(np.float64))
    return Projection(torch.from_numpy(direction / norm), kept)


@dataclass(frozen=True)
class AbsInfluence:
    """Influence of each neuron on one class, whatever its sign; in nats, float64 (F,)."""

    mean_abs: Tensor
    """mean |Δ|."""
    error_bound: Tensor
    """Largest distance of the mean from its exact value."""
    window_ids: Tensor
    """int64 (w,): the windows that have some positions."""
    window_abs_sum: Tensor
    """float64 (w, F): Σ |Δ| over the positions of each of them."""


@dataclass(frozen=True)
class FrozenInfluence(AbsInfluence):
    """With the unigram direction frozen, beside what it is without at the same positions."""

    whole: AbsInfluence


def frozen_influence(
    captured: Capture,
    projection: Projection,
    classes: Mapping[str, ClassInfluence],
    *,
    tolerance: float = TOLERANCE,
    relative: float = RELATIVE,
    memory_bytes: int = MEMORY_BYTES,
) -> dict[str, FrozenInfluence]:
    """Mean ablation's influence on each class once the projection is taken back, certified.

    classes: the influences on the same capture, or on one of which it holds some positions. A mean may err by
    `relative` times the neuron's mean |Δ|, or by `tolerance` nats where that is more. Costs about one more pass of
    `influence`.
    """
    device = captured.residual.device
    projection = Projection(
        projection.direction.to(device), None if projection.kept is None else projection.kept.to(device)
    )
    windows = torch.from_numpy(captured.positions.window).to(device)
    members = {name: torch.from_numpy(captured.positions.members(name)).to(device) for name in classes}
    limits = {name: (relative * c.mean_abs).clamp(min=tolerance) for name, c in classes.items()}
    fewer = [name for name, c in classes.items() if int(members[name].sum()) < c.n]
    wanted = [Certified(list(members.values()), list(limits.values()), projection)]
    sums = {name: _AbsSums(windows, members[name], c.mean_abs) for name, c in classes.items()}
    again = {name: _AbsSums(windows, members[name], classes[name].mean_abs) for name in fewer}
    if fewer:
        wanted.append(Certified([members[name] for name in fewer], [limits[name] for name in fewer]))
    for blocks in delta_blocks_together(captured, wanted, memory_bytes):
        for of_class in sums.values():
            of_class.add(blocks[0])
        for of_class in again.values():
            of_class.add(blocks[-1])
    result = {}
    for name, c in classes.items():
        at_all = AbsInfluence(c.mean_abs, c.error_bound, c.window_ids, c.window_abs_sum)
        whole = again[name].influence() if name in again else at_all
        result[name] = FrozenInfluence(**vars(sums[name].influence()), whole=whole)
    return result


class _AbsSums:
    """Sums of |Δ| over one class's positions by window, block after block."""

    def __init__(self, windows: Tensor, member: Tensor, of_neurons: Tensor) -> None:
        self.member = member
        self.clusters = clusters(windows, member)
        self.indicator = self.clusters.indicator(slice(None))
        self.sum = of_neurons.new_zeros(len(self.indicator), len(of_neurons))
        self.error = torch.zeros_like(of_neurons)

    def add(self, block: DeltaBlock) -> None:
        self.sum[:, block.neurons] += self.indicator[:, block.rows] @ block.delta.abs()
        self.error[block.neurons] += (block.half_width + block.rounding)[self.member[block.rows]].sum(0)

    def influence(self) -> AbsInfluence:
        n = int(self.member.sum())
        return AbsInfluence(self.sum.sum(0) / n, self.error / n, self.clusters.ids, self.sum)


@dataclass(frozen=True)
class MediatedShare:
    """Share of each neuron's influence on a class that goes through the frozen direction; float64 (F,)."""

    value: Tensor
    """1 − mean|Δ_frozen| / mean|Δ|; NaN where `reason` says why."""
    se: Tensor
    """Standard error, leaving out a cluster at a time; NaN also for a class in one cluster."""
    error_bound: Tensor
    """Largest distance of the value from its exact one."""
    reason: tuple[str | None, ...]


def mediated_share(frozen: FrozenInfluence, cluster: np.ndarray | None = None) -> MediatedShare:
    """Each neuron's mediation, undefined where mean |Δ| does not exceed the two error bounds.

    cluster: int (windows,), the independent piece of text that each window is of, by default itself.
    """
    total, error = frozen.whole.mean_abs, frozen.whole.error_bound
    defined = total > error + frozen.error_bound
    undefined = ~defined
    ratio = frozen.mean_abs / total
    bound = (frozen.error_bound + ratio * error) / (total - error) + DOUBLE_ROUNDING * (1 + ratio)
    labels = frozen.window_ids if cluster is None else torch.from_numpy(cluster).to(ratio.device)[frozen.window_ids]
    held, piece = torch.unique(labels, return_inverse=True)
    by_cluster = indicator(piece, len(held))
    sums = [by_cluster @ of_windows for of_windows in (frozen.window_abs_sum, frozen.whole.window_abs_sum)]
    left = [c.sum(0) - c for c in sums]
    se = torch.from_numpy(jackknife_se(as_numpy(left[0] / left[1]))).to(ratio.device)
    value, se, bound = (v.masked_fill(undefined, torch.nan) for v in (1 - ratio, se, bound))
    silent = (total + error == 0).tolist()
    reasons = tuple(
        None if ok else ("ablation changes nothing" if none else "mean |Δ| is within its error bound")
        for ok, none in zip(defined.tolist(), silent, strict=True)
    )
    return MediatedShare(value, se, bound, reasons)
