"""The rank–influence curve of one class with all of its evidence (METHODS §3)."""

from __future__ import annotations

from dataclasses import dataclass

from rtdyn.analyses.influence.ablation import ClassInfluence
from rtdyn.analyses.regimes.evidence import Likelihoods, ShapeEvidence, likelihoods, shape_p_values
from rtdyn.analyses.regimes.fit import Regimes, fit_regimes
from rtdyn.analyses.regimes.resampled import Resampled, resampled
from rtdyn.analyses.statistics import CLEAR_SE, as_numpy
from rtdyn.streams import stream
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class Curve:
    """One class's fit and what speaks for it."""

    regimes: Regimes
    shape: ShapeEvidence | Undefined
    resampled: Resampled | Undefined
    likelihoods: Likelihoods | Undefined | None
    """None where they were not asked for."""


def curve(c: ClassInfluence, rank_by: str, seed: int, briefly: bool = False) -> Curve:
    """Fit, shape nulls, fits to halves of the text, and likelihoods of one class.

    briefly: with no more draws of the shape nulls than their p needs, and without likelihoods.
    """
    ranking = c.ranking(rank_by)
    influence = as_numpy(ranking.values)
    uncertainty = as_numpy(CLEAR_SE * ranking.se + c.error_bound)
    sums, counts = as_numpy(c.by_cluster(ranking.window_sum)), as_numpy(c.by_cluster(c.window_n))
    return Curve(
        fit_regimes(influence, uncertainty),
        shape_p_values(influence, uncertainty, seed=seed, as_needed=briefly),
        resampled(sums, counts, uncertainty, stream(seed, "resampled text")),
        None if briefly else likelihoods(influence),
    )
