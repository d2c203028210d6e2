"""The rank–influence curve of one class with all of its evidence (METHODS §3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.influence.ablation import ClassInfluence
from rtdyn.analyses.regimes.evidence import (
    Bootstrap,
    Likelihoods,
    ShapeEvidence,
    bootstrap,
    likelihoods,
    shape_p_values,
)
from rtdyn.analyses.regimes.fit import Regimes, fit_regimes
from rtdyn.analyses.statistics import CLEAR_SE, as_numpy
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class Curve:
    """One class's fit and what speaks for it."""

    regimes: Regimes
    shape: ShapeEvidence | Undefined
    bootstrap: Bootstrap | Undefined
    likelihoods: Likelihoods | Undefined


def curve(c: ClassInfluence, documents: np.ndarray, rank_by: str, seed: int) -> Curve:
    """Fit, shape nulls, bootstrap and likelihoods of one class. documents: (windows,), each window's document."""
    ranking = c.ranking(rank_by)
    influence = as_numpy(ranking.values)
    uncertainty = as_numpy(CLEAR_SE * ranking.se + c.error_bound)
    window_sum, window_n, window_ids = map(as_numpy, (ranking.window_sum, c.window_n, c.window_ids))
    return Curve(
        fit_regimes(influence, uncertainty),
        shape_p_values(influence, uncertainty, seed=seed),
        bootstrap(window_sum, window_n, window_ids, documents, uncertainty, seed=seed),
        likelihoods(influence),
    )
