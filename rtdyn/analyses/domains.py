"""How alike a domain and the main text rank the neurons (METHODS §11)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.groups.choose import HalfInfluence, half_influence, window_halves
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.statistics import as_numpy
from rtdyn.rank_correlation import RankCorrelation, rank_correlation
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class RankComparison:
    """Spearman's correlations of the neurons' influence on one class in a domain."""

    with_main: RankCorrelation | Undefined
    """With their influence on the class in the main text."""
    between_halves: RankCorrelation | Undefined
    """Of one half of the domain's text with the other: what noise alone leaves of a ranking."""


def compare_ranks(
    result: Influence, main: Mapping[str, np.ndarray], cluster: np.ndarray, rank_by: str
) -> dict[str, RankComparison]:
    """By class of the domain.

    result: on the domain. main: float64 (F,) by class, what ranks neurons in the main text. cluster: int (windows,),
    the independent piece of the domain's text that each window is of, which goes whole to a half.
    """
    halves = window_halves(cluster)
    compared = {}
    for name, c in result.classes.items():
        by_half = [half_influence(c, halves, half, rank_by) for half in (0, 1)]
        lacking = next((h for h in by_half if isinstance(h, Undefined)), None)
        values = [h.ranking for h in by_half if isinstance(h, HalfInfluence)]
        compared[name] = RankComparison(
            rank_correlation(as_numpy(c.ranking(rank_by).values), main[name]),
            rank_correlation(*values) if lacking is None else lacking,
        )
    return compared
