"""A curve's fit on halves of the text: its numbers without the winner's curse, and the plateau's stable members.

Neurons are ranked by noisy numbers, so the top of a curve is a selection and its fit errs with it. `half_samples`
takes that error out of the boundaries and exponents, ranks on a logarithmic scale, and gives their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.half_samples import HALVES, Corrected, HalfSamples, corrected, half_samples, means
from rtdyn.analyses.regimes.fit import ThreeSegments, fit_curves, ranked
from rtdyn.undefined import Undefined

LOGARITHMIC = ("r1", "r2")
"""Ranks, whose logarithms are corrected."""
CORRECTED = (*LOGARITHMIC, "kappa", "excess", "decay_slope")
"""Numbers of a fit that are corrected."""


@dataclass(frozen=True)
class Resampled:
    """What halves of the text make of a curve's fit."""

    clusters: int
    """Independent pieces of text that hold the class."""
    no_fit_share: float
    """Share of halves whose curve has no fit; they are left out of all the rest."""
    raised_share: float
    """Share of halves whose top is raised."""
    statistics: Mapping[str, Corrected | Undefined]
    """By CORRECTED, those of LOGARITHMIC as logarithms."""
    stable_share: np.ndarray
    """(F,): share of halves in which the neuron is in a raised plateau; plateau neurons are above one half."""
    top_share: np.ndarray
    """(F,): the same with flattenings counted as plateaus."""


def resampled(
    sums: np.ndarray, counts: np.ndarray, uncertainty: np.ndarray, rng: np.random.Generator
) -> Resampled | Undefined:
    """Refits the curve to halves of the text and halves of those, or says why it cannot.

    sums: (g, F), Σ|Δ| of each cluster that holds the class; with ΣΔ the curve is that of |mean Δ|. counts: (g,).
    uncertainty: (F,), the whole text's, censors each half too.
    """
    samples = half_samples(len(counts), rng)
    if isinstance(samples, Undefined):
        return samples
    influence = np.abs(means(samples.weights(), sums, counts))
    fits = fit_curves(influence, uncertainty)
    values = np.array([_numbers(fit) for fit in fits])
    members = _membership(influence[1 : 1 + HALVES], fits[1 : 1 + HALVES], uncertainty)
    if isinstance(members, Undefined):
        return members
    no_fit, raised, stable, top = members
    statistics = {name: corrected(values[:, k], len(counts)) for k, name in enumerate(CORRECTED)}
    return Resampled(len(counts), no_fit, raised, statistics, stable, top)


def stable_members(
    sums: np.ndarray, counts: np.ndarray, uncertainty: np.ndarray, rng: np.random.Generator
) -> np.ndarray | Undefined:
    """(F,): `Resampled.stable_share` alone, or why it is unknown; arguments as for `resampled`."""
    samples = half_samples(len(counts), rng)
    if isinstance(samples, Undefined):
        return samples
    influence = np.abs(means(HalfSamples(samples.halves, samples.halves[:0]).weights()[1:], sums, counts))
    members = _membership(influence, fit_curves(influence, uncertainty), uncertainty)
    return members if isinstance(members, Undefined) else members[2]


def _numbers(fit: ThreeSegments | Undefined) -> list[float]:
    """By CORRECTED; NaN without a fit."""
    if isinstance(fit, Undefined):
        return [math.nan] * len(CORRECTED)
    return [math.log(getattr(fit, n)) if n in LOGARITHMIC else float(getattr(fit, n)) for n in CORRECTED]


def _membership(
    influence: np.ndarray, fits: Sequence[ThreeSegments | Undefined], uncertainty: np.ndarray
) -> tuple[float, float, np.ndarray, np.ndarray] | Undefined:
    """Shares of halves without a fit and with a raised top, and by neuron (F,) of plateaus, raised and all.

    influence: (HALVES, F).
    """
    fitted = [(values, fit) for values, fit in zip(influence, fits, strict=True) if not isinstance(fit, Undefined)]
    if 2 * len(fitted) < len(influence):
        return Undefined(f"{len(influence) - len(fitted)} of {len(influence)} halves of the text have no fit")
    stable, top = np.zeros((2, influence.shape[1]))
    for values, fit in fitted:
        order, ranks, _ = ranked(values, uncertainty)
        members = order[ranks[ranks <= fit.r1] - 1]
        top[members] += 1
        stable[members] += fit.raised
    raised = float(np.mean([fit.raised for _, fit in fitted]))
    return 1 - len(fitted) / len(influence), raised, stable / len(fitted), top / len(fitted)
