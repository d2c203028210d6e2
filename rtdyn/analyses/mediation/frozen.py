"""How much of each neuron's influence goes through token frequency (METHODS §2, arXiv:2406.16254).

Mean ablation moves the logits by z (`logit_shift.py`); the frozen loss takes back what lies along the unit vector û of
log unigram frequency, centred over the types that have counts: z' = z − ⟨z, û⟩û, z centred over the vocabulary.
mediation = 1 − mean|Δ_frozen| / mean|Δ|. `longtail` masks û to a band of types, makes it a unit vector again, and
leaves the logits of all other types as they were before ablation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.influence.ablation import MEMORY_BYTES, TOLERANCE, ClassInfluence
from rtdyn.analyses.influence.certified import DOUBLE_ROUNDING, delta_blocks
from rtdyn.analyses.influence.unembedding import Projection
from rtdyn.analyses.statistics import as_numpy, clusters, jackknife_se
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
class FrozenInfluence:
    """Influence of each neuron on one class with the unigram direction frozen; in nats, float64 (F,)."""

    mean_abs: Tensor
    """mean |Δ_frozen|."""
    error_bound: Tensor
    """Largest distance of the mean from its exact value."""
    window_abs_sum: Tensor
    """float64 (w, F): Σ |Δ_frozen| over the positions of each of `ClassInfluence.window_ids`."""


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

    classes: the influences on the same capture. A frozen mean may err by `relative` times the neuron's mean |Δ|, or
    by `tolerance` nats where that is more. Costs about one more pass of `influence`.
    """
    device = captured.residual.device
    projection = Projection(
        projection.direction.to(device), None if projection.kept is None else projection.kept.to(device)
    )
    members = {name: torch.from_numpy(captured.positions.members(name)).to(device) for name in classes}
    windows = torch.from_numpy(captured.positions.window).to(device)
    indicators = {name: clusters(windows, member).indicator(slice(None)) for name, member in members.items()}
    sums = {name: torch.zeros_like(c.window_abs_sum) for name, c in classes.items()}
    errors = {name: torch.zeros_like(c.mean) for name, c in classes.items()}
    limits = [(relative * c.mean_abs).clamp(min=tolerance) for c in classes.values()]
    for block in delta_blocks(captured, list(members.values()), limits, memory_bytes, projection=projection):
        for name, member in members.items():
            sums[name][:, block.neurons] += indicators[name][:, block.rows] @ block.delta.abs()
            errors[name][block.neurons] += (block.half_width + block.rounding)[member[block.rows]].sum(0)
    return {
        name: FrozenInfluence(sums[name].sum(0) / c.n, errors[name] / c.n, sums[name]) for name, c in classes.items()
    }


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


def mediated_share(influence: ClassInfluence, frozen: FrozenInfluence) -> MediatedShare:
    """Each neuron's mediation, undefined where mean |Δ| does not exceed the two error bounds."""
    total, error = influence.mean_abs, influence.error_bound
    defined = total > error + frozen.error_bound
    undefined = ~defined
    ratio = frozen.mean_abs / total
    bound = (frozen.error_bound + ratio * error) / (total - error) + DOUBLE_ROUNDING * (1 + ratio)
    left = [c.sum(0) - c for c in map(influence.by_cluster, (frozen.window_abs_sum, influence.window_abs_sum))]
    se = torch.from_numpy(jackknife_se(as_numpy(left[0] / left[1]))).to(ratio.device)
    value, se, bound = (v.masked_fill(undefined, torch.nan) for v in (1 - ratio, se, bound))
    silent = (total + error == 0).tolist()
    reasons = tuple(
        None if ok else ("ablation changes nothing" if none else "mean |Δ| is within its error bound")
        for ok, none in zip(defined.tolist(), silent, strict=True)
    )
    return MediatedShare(value, se, bound, reasons)
