"""The influence of all neurons on each class in a few numbers (METHODS §2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rtdyn.analyses.influence.ablation import ClassInfluence, Influence
from rtdyn.analyses.statistics import CLEAR_SE, Estimate, estimate, jackknife_se
from rtdyn.analyses.top import TOP_SHARE
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class InfluenceSummary:
    """The influence A_i = mean |Δ_ni| of all neurons on one class; in nats."""

    n: int
    """Positions."""
    mean: Estimate | Undefined
    largest: Estimate | Undefined
    top_share: Estimate | Undefined
    """Share of the sum that the most influential TOP_SHARE of the neurons have."""
    boosting: int
    """Neurons whose mean Δ is clear above zero: they help."""
    suppressing: int
    """Neurons whose mean Δ is clear below zero."""
    error_bound: float
    """The largest of any neuron."""


def summarise(result: Influence) -> dict[str, InfluenceSummary]:
    """By class; intervals leave out a window at a time."""
    return {name: _of_class(c) for name, c in result.classes.items()}


def _of_class(c: ClassInfluence) -> InfluenceSummary:
    clear = c.mean.abs() > CLEAR_SE * c.mean_se + c.error_bound
    return InfluenceSummary(
        n=c.n,
        mean=_estimate(partial(torch.mean, dim=1), c),
        largest=_estimate(partial(torch.amax, dim=1), c),
        top_share=_estimate(partial(_share_of_largest, count=math.ceil(TOP_SHARE * len(c.mean_abs))), c),
        boosting=int((clear & (c.mean > 0)).sum()),
        suppressing=int((clear & (c.mean < 0)).sum()),
        error_bound=float(c.error_bound.max()),
    )


def _estimate(statistic: Callable[[Tensor], Tensor], c: ClassInfluence) -> Estimate | Undefined:
    """statistic maps influences (w, F) to (w,)."""
    value = float(statistic(c.mean_abs[None]))
    if not math.isfinite(value):
        return Undefined("every neuron's influence is 0")
    return estimate(value, jackknife_se(statistic, c.window_abs_sum, c.window_n))


def _share_of_largest(influence: Tensor, count: int) -> Tensor:
    """(w,): what the `count` largest of each row of influence (w, F) are of its sum."""
    return influence.topk(count, dim=1).values.sum(1) / influence.sum(1)
