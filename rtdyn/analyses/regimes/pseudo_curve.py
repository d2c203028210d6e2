"""The rank–influence curve of pseudo-classes of common positions, with its band (METHODS §3(d))."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.influence.ablation import PseudoInfluence
from rtdyn.analyses.statistics import as_numpy
from rtdyn.intervals import QUANTILES_95

RANKS = 97
"""Ranks, evenly spaced in log rank, at which the pseudo-classes' influence is kept."""


@dataclass(frozen=True)
class PseudoCurve:
    """Ranked influence of pseudo-classes at r ranks, in nats, float64 (r,); not finite where one of them has none."""

    rank: np.ndarray
    """int64 (r,), from 1."""
    mean: np.ndarray
    """Geometric mean."""
    low: np.ndarray
    """Lower end of the band that holds 95 % of the pseudo-classes, rank by rank."""
    high: np.ndarray


def pseudo_curve(pseudo: PseudoInfluence, shared: float, rank_by: str) -> PseudoCurve:
    """The curves' mean and band; deviations from the mean, in logarithms, are widened as `contrast` does.

    shared: the pseudo-classes' `overlap`.
    """
    ranked = -np.sort(-as_numpy(pseudo.ranking(rank_by).double()), axis=1)
    ranks = np.unique(np.geomspace(1, ranked.shape[1], RANKS).round().astype(np.int64))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(ranked[:, ranks - 1])
        mean = logs.mean(0)
        widening = math.sqrt((1 + shared) / (1 - shared))
        low, high = mean + widening * (np.quantile(logs, QUANTILES_95, axis=0) - mean)
    return PseudoCurve(ranks, np.exp(mean), np.exp(low), np.exp(high))
