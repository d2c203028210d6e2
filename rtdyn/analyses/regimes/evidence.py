"""Evidence that a curve's three regimes are more than the shape any numbers have (METHODS §3(a), §3(c)).

(a) Shape nulls: T = excess / IQR(log A), the excess after log A is divided by its interquartile range. So lognormal and
Pareto nulls have no parameter, and the half-normal's scale cancels. p = (1 + #{T0 ≥ T}) / (draws + 1).
The first few of a Pareto sample scatter so widely that T must pass about 1.6 there, at any F
(scripts/calibration/regime_power.py). T is of the curve as it is, its selection left in.
(b) Resampling is in `resampled.py`. (c) Likelihood ratios of the distribution of A (Clauset et al. 2009; `powerlaw`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rtdyn.analyses.kernels.least_ks import NEAR, least_ks
from rtdyn.analyses.regimes.fit import ROUND_OFF, ThreeSegments, fit_ranks, fit_sorted, ranked
from rtdyn.analyses.regimes.powerlaw_fit import powerlaw_fit
from rtdyn.blame import passes
from rtdyn.errors import brief
from rtdyn.quiet import quietly
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

HALF_NORMAL, LOGNORMAL, PARETO = "half_normal", "lognormal", "pareto"
SHAPES = (HALF_NORMAL, LOGNORMAL, PARETO)
SHAPE_DRAWS = 999
FIRST, ENOUGH = 99, 10
"""Draws of each shape that are enough where so many of them reach T, if draws are made as needed."""
STEEPEST = 3.0
"""Largest exponent of a density that the library takes, where there is any under it."""
LEAST_GIVEN = 50
"""Values that the library is given at least."""
NULL_CHUNK = 2**20
"""Numbers drawn at a time for the shape nulls; the draws do not depend on it."""


@dataclass(frozen=True)
class ShapeEvidence:
    """A curve's T and how often numbers without regimes reach it."""

    statistic: float
    """T, in interquartile ranges of log A."""
    p_values: Mapping[str, float]
    """By shape of SHAPES."""
    null_means: Mapping[str, float]
    null_sds: Mapping[str, float]

    @property
    def p_value(self) -> float:
        """The largest, which the verdict uses."""
        return max(self.p_values.values())


@dataclass(frozen=True)
class Likelihoods:
    """The tail A ≥ xmin under three distributions; a ratio is Σ(log L₁ − log L₂), above 0 where the first is better."""

    xmin: float
    """As the library chooses it: least Kolmogorov–Smirnov distance of the power law."""
    tail: int
    """Neurons at or above it."""
    alpha: float
    """The power law's density exponent."""
    ks_distance: float
    ratios: Mapping[str, float]
    """By COMPARISONS."""
    p_values: Mapping[str, float]
    """Two-sided p of each ratio: Vuong's, or χ² where the first is a case of the second."""


COMPARISONS = {
    "power_law_over_lognormal": ("power_law", "lognormal"),
    "truncated_over_lognormal": ("truncated_power_law", "lognormal"),
    "power_law_over_truncated": ("power_law", "truncated_power_law"),
}
"""Distributions compared, by the library's names."""


def shape_statistic(log_a: np.ndarray, fit: ThreeSegments) -> float:
    """T: the fit's excess in interquartile ranges of log_a (m,), the curve's uncensored log A; NaN if those are 0.

    log_a: descending.
    """
    spread = _quantile(log_a, 0.75) - _quantile(log_a, 0.25)
    return fit.excess / spread if spread > ROUND_OFF else math.nan


def _quantile(descending: np.ndarray, share: float) -> float:
    """np.quantile of descending numbers (m,), which needs no sort and a tenth of its time."""
    last = len(descending) - 1
    below = math.floor(share * last)
    part = share * last - below
    low, high = float(descending[last - below]), float(descending[max(last - below - 1, 0)])
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


def shape_p_values(
    influence: np.ndarray,
    uncertainty: np.ndarray,
    draws: int = SHAPE_DRAWS,
    seed: int = 0,
    as_needed: bool = False,
) -> ShapeEvidence | Undefined:
    """T of one curve against i.i.d. numbers of each shape, or why it has none.

    influence: (F,) ≥ 0; uncertainty: (F,), as for `fit_regimes`. A null curve has F numbers and loses its smallest, so
    that as many are left as are uncensored in the data. Where uncensored neurons rank below censored ones, the null
    has no such gaps. as_needed: make no more than FIRST draws of a shape where ENOUGH of them reach T. P(p ≤ α) ≤ α
    then too. A p under ENOUGH/(FIRST + 1) is the rank among all draws, any other bounds that among the first.
    """
    _, ranks, log_a = ranked(influence, uncertainty)
    fit = fit_ranks(ranks, log_a)
    if isinstance(fit, Undefined):
        return fit
    statistic = shape_statistic(log_a, fit)
    if math.isnan(statistic):
        return Undefined("the middle half of the uncensored neurons have equal influence")
    nulls = {}
    for shape in SHAPES:
        for count in (min(FIRST, draws), draws) if as_needed else (draws,):
            null = null_statistics(shape, len(influence), len(ranks), count, seed)
            if isinstance(null, Undefined):
                return null
            nulls[shape] = null
            if (null >= statistic).sum() >= ENOUGH:
                break
    return ShapeEvidence(
        statistic,
        {shape: (1 + int((null >= statistic).sum())) / (len(null) + 1) for shape, null in nulls.items()},
        {shape: float(null.mean()) for shape, null in nulls.items()},
        {shape: float(null.std(ddof=1)) for shape, null in nulls.items()},
    )


@lru_cache(maxsize=256)
def null_statistics(shape: str, neurons: int, uncensored: int, draws: int, seed: int) -> np.ndarray | Undefined:
    """T (draws,), read-only, of the `uncensored` largest of `neurons` i.i.d. numbers of a shape, or why none.

    Kept in memory, so that steps with equal numbers share them.
    """
    rng = stream(seed, "shape nulls", shape)
    rows = max(1, NULL_CHUNK // neurons)
    statistics = []
    for start in range(0, draws, rows):
        log_a = log_of_shape(shape, (min(rows, draws - start), neurons), rng)
        log_a = -np.sort(-log_a, axis=1)[:, :uncensored]
        for values, fit in zip(log_a, fit_sorted(log_a), strict=True):
            if isinstance(fit, Undefined):
                return Undefined(f"the shape nulls' curves have no fit: {fit.reason}")
            statistics.append(shape_statistic(values, fit))
    result = np.array(statistics)
    result.flags.writeable = False
    return result


def log_of_shape(shape: str, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Logarithms of i.i.d. numbers of a shape, with scale and exponent 1; size: (draws, F)."""
    if shape == PARETO:
        return rng.standard_exponential(size)
    normal = rng.standard_normal(size)
    return normal if shape == LOGNORMAL else np.log(np.abs(normal))


def likelihoods(influence: np.ndarray) -> Likelihoods | Undefined:
    """The tail of influence (F,) under a power law, a truncated power law and a lognormal, or why it cannot be fitted.

    Zeros are left out. The library's own fit, messages off; it asks for at least two different values above 0.
    """
    values = influence[influence > 0]
    if len(np.unique(values)) < 2:
        return Undefined("fewer than two different influences above 0")
    # the library's optimisers and its truncated power law expect numbers of order 1; the ratios do not depend on it
    scale = float(np.median(values))
    try:
        (xmin, alpha, distance), tail, compared = quietly(powerlaw_fit, *library_search(values / scale), COMPARISONS)
    except (ValueError, RuntimeError, ArithmeticError, IndexError, TypeError, AttributeError) as error:
        if passes(error):
            raise
        return Undefined(f"powerlaw cannot fit it ({brief(error)})")
    ratios, p_values = ({name: float(pair[k]) for name, pair in compared.items()} for k in (0, 1))
    numbers = xmin * scale, alpha, distance
    if not all(map(math.isfinite, (*numbers, *ratios.values(), *p_values.values()))):
        return Undefined("powerlaw's fit has no finite likelihood")
    return Likelihoods(numbers[0], tail, alpha, distance, ratios, p_values)


def library_search(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The largest of values (m,) > 0, ascending, and the range in which the library finds what it finds in all.

    It would try each value but the two largest as the beginning of the tail, by the distance alone. It takes exponents
    of the density up to 3 where there are such. Values that repeat have other distances, so that all are given and
    tried. So are those of which one is 0 or infinite.
    """
    ordered = np.sort(values)
    with np.errstate(divide="ignore"):
        logs = np.log(ordered[::-1])
    if not (np.diff(logs) < 0).all() or not np.isfinite(logs).all():
        return ordered, (ordered[0], ordered[-1])
    # tails whose distances round-off may decide between
    longest, shortest = (least_ks(logs, 2, 1 / (STEEPEST - 1), 1, near) for near in (NEAR, -NEAR))
    if not longest:
        return ordered, (ordered[0], ordered[-1])
    given = ordered[-max(longest + 2, LEAST_GIVEN) :]
    # the library leaves out the shortest tail of the range, and wants two others
    first, end = max(0, len(given) - 2 - longest), min(len(given) - 1, len(given) + 2 - shortest)
    return given, (given[first], given[end])
