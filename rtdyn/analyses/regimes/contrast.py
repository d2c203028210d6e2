"""Statistics of the rare class's curve among those of pseudo-classes (METHODS §3(d))."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.regimes.evidence import shape_statistic
from rtdyn.analyses.regimes.fit import fit_curves, ranked
from rtdyn.analyses.statistics import Comparison, as_numpy, compare
from rtdyn.names import RARE
from rtdyn.undefined import Undefined

MAX_OVERLAP = 0.2
"""Share of positions that two pseudo-classes may have in common; beyond it clusters are imitated too poorly."""
CURVE_STATISTICS = ("excess", "kappa", "r1", "plateau_fraction", "shape_statistic")


def curve_statistics(influence: np.ndarray) -> dict[str, np.ndarray]:
    """CURVE_STATISTICS of each of k curves, (k,), NaN where a curve has no fit.

    influence: (k, F) ≥ 0. Nothing but zeros is censored, so that rare and pseudo-classes are held to the same rule,
    since the latter have no standard errors.
    """
    bounds = np.zeros_like(influence)
    result = {name: np.full(len(influence), np.nan) for name in CURVE_STATISTICS}
    for row, fit in enumerate(fit_curves(influence, bounds)):
        if isinstance(fit, Undefined):
            continue
        _, ranks, log_a = ranked(influence[row], bounds[row])
        members = int(np.searchsorted(ranks, fit.r1, side="right"))
        values = fit.excess, fit.kappa, fit.r1, members / influence.shape[1], shape_statistic(log_a, fit)
        for name, value in zip(CURVE_STATISTICS, values, strict=True):
            result[name][row] = value
    return result


@dataclass(frozen=True)
class Contrast:
    """The rare class's curve statistics among those of the pseudo-classes."""

    values: Mapping[str, float]
    """By CURVE_STATISTICS, of the rare class's curve with nothing censored; NaN without a fit."""
    against: Mapping[str, Comparison | Undefined]


def contrast_with_pseudo_classes(result: Influence, shared: float, rank_by: str) -> Contrast | Undefined:
    """The rare class's curve among those of the pseudo-classes of common positions; shared: their `overlap`."""
    if result.pseudo is None:
        return Undefined("there are no pseudo-classes")
    rare = result.classes[RARE].ranking(rank_by).values
    statistics = curve_statistics(as_numpy(torch.cat([rare[None], result.pseudo.ranking(rank_by)])))
    values = {name: float(of_curves[0]) for name, of_curves in statistics.items()}
    return Contrast(values, {name: contrast(value, statistics[name][1:], shared) for name, value in values.items()})


def contrast(
    rare: float,
    pseudo: np.ndarray,
    shared: float = 0.0,
    compared: Callable[[float, np.ndarray], Comparison | Undefined] = compare,
) -> Comparison | Undefined:
    """The rare class's statistic among those of the pseudo-classes (draws,), NaN left out, or why it has no place.

    shared: the pseudo-classes' `overlap`. The null's mean is that of the pseudo-classes, its deviation is widened.
    p = min(1, 2·(1 + the smaller tail)/(draws + 1)), or as `compared` has it. A value equal to the rare one stays equal
    to it.
    """
    if not math.isfinite(rare):
        return Undefined("the rare class has no value")
    if shared > MAX_OVERLAP:
        return Undefined(f"pseudo-classes share {shared:.0%} of their positions, over {MAX_OVERLAP:.0%}")
    finite = pseudo[np.isfinite(pseudo)]
    if len(finite) == 0:
        return Undefined("no pseudo-class has a value")
    widened = finite.mean() + (finite - finite.mean()) * math.sqrt((1 + shared) / (1 - shared))
    return compared(rare, np.where(finite == rare, finite, widened))
