"""Evidence that a curve's three regimes are more than the shape any numbers have (METHODS §3 a–c).

(a) Shape nulls: T = excess / IQR(log A), the excess after log A is divided by its interquartile range, so that
lognormal and Pareto nulls have no parameter and the half-normal's scale cancels; p = (1 + #{T0 ≥ T}) / (draws + 1).
The first few of a Pareto sample scatter so widely that T must pass about 1.6 there, at any F
(scripts/calibration/regime_power.py).
(b) Bootstrap over documents, or over blocks of windows where documents are few: Efron's bias-corrected percentile
intervals, with z0 = Φ⁻¹(share of draws under the estimate), between the quantiles Φ(2·z0 ± 1.96); and how often each
neuron lies in the plateau. (c) Likelihood ratios of the distribution of A (Clauset et al. 2009; `powerlaw`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from rtdyn.analyses.regimes.fit import ROUND_OFF, ThreeSegments, fit_curves, fit_ranks, fit_sorted, ranked
from rtdyn.analyses.regimes.powerlaw_fit import powerlaw_fit
from rtdyn.blame import passes
from rtdyn.errors import brief
from rtdyn.intervals import NORMAL_95
from rtdyn.quiet import quietly
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

HALF_NORMAL, LOGNORMAL, PARETO = "half_normal", "lognormal", "pareto"
SHAPES = (HALF_NORMAL, LOGNORMAL, PARETO)
SHAPE_DRAWS = 999
BOOTSTRAP_DRAWS = 200
MIN_DOCUMENTS = 10
"""Documents that hold the class under which blocks of windows are drawn instead."""
BLOCK_WINDOWS = 8
"""Least number of consecutive windows in a block."""
MIN_UNITS = 5
"""Documents or blocks under which there is no bootstrap: four have only 35 resamples."""
NULL_CHUNK = 2**20
"""Numbers drawn at a time for the shape nulls; the draws do not depend on it."""
INTERVAL_STATISTICS = ("r1", "r2", "kappa", "excess")


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
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """What resampling the text does to a curve's fit."""

    unit: str
    """`documents` or `blocks`."""
    units: int
    """How many of them hold the class."""
    draws: int
    no_fit_share: float
    """Share of draws whose curve has no fit; they are left out of all the rest."""
    raised_share: float
    """Share of draws whose top is raised."""
    intervals: Mapping[str, Interval | Undefined]
    """By INTERVAL_STATISTICS, or why there is none."""
    stable_share: np.ndarray
    """(F,): share of draws in which the neuron is in a raised plateau; plateau neurons are above one half."""
    top_share: np.ndarray
    """(F,): the same with flattenings counted as plateaus."""


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
    """T: the fit's excess in interquartile ranges of log_a (m,), the curve's uncensored log A; NaN if those are 0."""
    upper, lower = np.percentile(log_a, (75, 25))
    return fit.excess / float(upper - lower) if upper - lower > ROUND_OFF else math.nan


def shape_p_values(
    influence: np.ndarray, uncertainty: np.ndarray, draws: int = SHAPE_DRAWS, seed: int = 0
) -> ShapeEvidence | Undefined:
    """T of one curve against i.i.d. numbers of each shape, or why it has none.

    influence: (F,) ≥ 0; uncertainty: (F,), as for `fit_regimes`. A null curve has F numbers and loses its smallest, so
    that as many are left as are uncensored in the data; where uncensored neurons rank below censored ones, the null
    has no such gaps.
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
        null = null_statistics(shape, len(influence), len(ranks), draws, seed)
        if isinstance(null, Undefined):
            return null
        nulls[shape] = null
    return ShapeEvidence(
        statistic,
        {shape: (1 + int((null >= statistic).sum())) / (draws + 1) for shape, null in nulls.items()},
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


def resampling_units(window_ids: np.ndarray, documents: np.ndarray) -> tuple[str, np.ndarray]:
    """What the bootstrap draws: `documents` or `blocks`, and each window's unit (w,), numbered from 0.

    window_ids: int (w,), the windows that hold the class. documents: int (windows,), by window id. Fewer than
    MIN_DOCUMENTS documents with the class give way to blocks of BLOCK_WINDOWS or more consecutive windows.
    """
    holding, index = np.unique(documents[window_ids], return_inverse=True)
    if len(holding) >= MIN_DOCUMENTS:
        return "documents", index
    blocks = max(1, len(documents) // BLOCK_WINDOWS)
    return "blocks", np.unique(window_ids * blocks // len(documents), return_inverse=True)[1]


def bootstrap(
    window_sum: np.ndarray,
    window_n: np.ndarray,
    window_ids: np.ndarray,
    documents: np.ndarray,
    uncertainty: np.ndarray,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> Bootstrap | Undefined:
    """Refits the curve to resampled text, or says why it cannot.

    window_sum: (w, F), Σ|Δ| of each window that holds the class (with ΣΔ the curve is that of |mean Δ|); window_n and
    window_ids: (w,); documents: as for `resampling_units`; uncertainty: (F,), the point estimate's, censors each draw
    too. Units without the class would change no mean and are left out.
    """
    unit, index = resampling_units(window_ids, documents)
    units = int(index.max()) + 1
    if units < MIN_UNITS:
        return Undefined(f"the class lies in {units} {unit}, under {MIN_UNITS}")
    point = fit_ranks(*ranked(_means(window_sum, window_n, np.ones((1, len(index))))[0], uncertainty)[1:])
    if isinstance(point, Undefined):
        return point
    rng = stream(seed, "resampled text")
    times = rng.multinomial(units, np.full(units, 1 / units), size=draws)
    influence = _means(window_sum, window_n, times[:, index].astype(float))
    fits = fit_curves(influence, uncertainty)
    fitted = [(values, fit) for values, fit in zip(influence, fits, strict=True) if not isinstance(fit, Undefined)]
    if 2 * len(fitted) < draws:
        return Undefined(f"{draws - len(fitted)} of {draws} resampled curves have no fit")
    stable, top = np.zeros((2, influence.shape[1]))
    for values, fit in fitted:
        order, ranks, _ = ranked(values, uncertainty)
        members = order[ranks[ranks <= fit.r1] - 1]
        top[members] += 1
        stable[members] += fit.raised
    return Bootstrap(
        unit=unit,
        units=units,
        draws=draws,
        no_fit_share=1 - len(fitted) / draws,
        raised_share=float(np.mean([fit.raised for _, fit in fitted])),
        intervals={
            name: bias_corrected(float(getattr(point, name)), np.array([getattr(fit, name) for _, fit in fitted]))
            for name in INTERVAL_STATISTICS
        },
        stable_share=stable / len(fitted),
        top_share=top / len(fitted),
    )


def _means(window_sum: np.ndarray, window_n: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Class means (draws, F) with each window taken times (draws, w)."""
    return np.abs(times @ window_sum) / (times @ window_n)[:, None]


def bias_corrected(estimate: float, draws: np.ndarray) -> Interval | Undefined:
    """Efron's bias-corrected 95 % percentile interval from bootstrap values (b,); draws at the estimate count half.

    Its ends are draws, taken outwards. The reason where nearly all draws lie on one side of the estimate: the
    interval would then be a single draw that leaves the estimate out.
    """
    b = len(draws)
    below = (float((draws < estimate).sum()) + 0.5 * float((draws == estimate).sum())) / b
    if (draws == estimate).all():
        return Interval(estimate, estimate)
    normal = NormalDist()
    if not 0 < below < 1:
        return Undefined(f"all {b} draws lie {'above' if below == 0 else 'below'} the estimate")
    z0 = normal.inv_cdf(below)
    low, high = (normal.cdf(2 * z0 + side * NORMAL_95) for side in (-1, 1))
    if high < 1 / (b + 1) or low > b / (b + 1):
        return Undefined(f"{below:.1%} of {b} draws lie below the estimate, too one-sided to correct")
    return Interval(float(np.quantile(draws, low, method="lower")), float(np.quantile(draws, high, method="higher")))


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
        (xmin, alpha, distance), tail, compared = quietly(powerlaw_fit, values / scale, COMPARISONS)
    except (ValueError, RuntimeError, ArithmeticError, IndexError, TypeError, AttributeError) as error:
        if passes(error):
            raise
        return Undefined(f"powerlaw cannot fit it ({brief(error)})")
    ratios, p_values = ({name: float(pair[k]) for name, pair in compared.items()} for k in (0, 1))
    numbers = xmin * scale, alpha, distance
    if not all(map(math.isfinite, (*numbers, *ratios.values(), *p_values.values()))):
        return Undefined("powerlaw's fit has no finite likelihood")
    return Likelihoods(numbers[0], tail, alpha, distance, ratios, p_values)
