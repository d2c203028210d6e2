"""The rank–influence curve of each class with all of its evidence (METHODS §3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from rtdyn.analyses.influence.ablation import ClassInfluence, Influence
from rtdyn.analyses.regimes.contrast import CURVE_STATISTICS, contrast, curve_statistics
from rtdyn.analyses.regimes.evidence import (
    Bootstrap,
    Likelihoods,
    ShapeEvidence,
    bootstrap,
    likelihoods,
    shape_p_values,
)
from rtdyn.analyses.regimes.fit import Regimes, fit_regimes
from rtdyn.analyses.statistics import CLEAR_SE, Comparison
from rtdyn.text.pseudo_classes import overlap
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class Curve:
    """One class's fit and what speaks for it; a string says why a part is missing."""

    regimes: Regimes
    shape: ShapeEvidence | str
    bootstrap: Bootstrap | str
    likelihoods: Likelihoods | str


@dataclass(frozen=True)
class Contrast:
    """The rare class's curve statistics among those of the pseudo-classes."""

    values: Mapping[str, float]
    """By CURVE_STATISTICS, of the rare class's curve with nothing censored; NaN without a fit."""
    against: Mapping[str, Comparison | Undefined]


def curve(c: ClassInfluence, documents: np.ndarray, rank_by: str, seed: int) -> Curve:
    """Fit, shape nulls, bootstrap and likelihoods of one class. documents: (windows,), each window's document."""
    if rank_by == "abs_mean":
        values, se, sums = c.mean.abs(), c.mean_se, c.window_sum
    else:
        values, se, sums = c.mean_abs, c.mean_abs_se, c.window_abs_sum
    influence = values.cpu().numpy()
    uncertainty = (CLEAR_SE * se + c.error_bound).cpu().numpy()
    window_sum, window_n, window_ids = (v.cpu().numpy() for v in (sums, c.window_n, c.window_ids))
    return Curve(
        fit_regimes(influence, uncertainty),
        shape_p_values(influence, uncertainty, seed=seed),
        bootstrap(window_sum, window_n, window_ids, documents, uncertainty, seed=seed),
        likelihoods(influence),
    )


def contrast_of(result: Influence, members: np.ndarray | Undefined, rank_by: str) -> Contrast | str:
    """Rare against the pseudo-classes of common positions; members: bool (draws, N), or why there are none."""
    if isinstance(members, Undefined) or result.pseudo is None:
        return members.reason if isinstance(members, Undefined) else "there are no pseudo-classes"
    pseudo, rare = result.pseudo, result.classes["rare"]
    n = pseudo.n.sum(0)[:, None]
    if rank_by == "abs_mean":
        own, theirs = rare.mean.abs(), (pseudo.sum.sum(0) / n).abs()
    else:
        own, theirs = rare.mean_abs, pseudo.abs_sum.sum(0) / n
    found = curve_statistics(torch.cat([own[None], theirs]).cpu().numpy())
    shared = overlap(members)
    return Contrast(
        {name: float(found[name][0]) for name in CURVE_STATISTICS},
        {name: contrast(float(found[name][0]), found[name][1:], shared) for name in CURVE_STATISTICS},
    )
