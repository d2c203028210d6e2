"""How good the first order is, from a uniform sample of neurons whose effects are known exactly (METHODS §11).

All is of this text and these F neurons. Intervals are those of a jackknife over the sampled neurons, and have no width
where the sample holds them all. Where a single neuron decides a correlation and is not drawn, they do not know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.analyses.statistics import jackknife_se
from rtdyn.analyses.top import top_size
from rtdyn.counted import counted
from rtdyn.intervals import NORMAL_95
from rtdyn.undefined import Undefined

MIN_NEURONS = 10
"""Neurons under which nothing is said of the first order."""
RANKING = 0.8
"""Lower limit of Spearman's correlation under which the first order ranks no neurons."""
ERROR_SHARE = 0.9
"""Share of the neurons whose first order errs by at most the calibrated error."""


@dataclass(frozen=True)
class Sampled:
    """A number of all neurons, from the sample of them, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    """None, as `low`, where no interval is known."""
    n: int
    """Neurons."""


@dataclass(frozen=True)
class Calibration:
    """The first order of class means against the exact ones."""

    pearson: Sampled | Undefined
    spearman: Sampled | Undefined
    slope: Sampled | Undefined
    """Of the exact mean on the first order, least squares."""
    error: Sampled | Undefined
    """Nats: what the first order errs by at most for ERROR_SHARE of the neurons; its interval is not known."""


def calibrate(first_order: np.ndarray, exact: np.ndarray, neurons: int) -> Calibration:
    """first_order, exact: float64 (n,), class means of a uniform sample of so many neurons."""
    n = len(exact)
    if n < MIN_NEURONS:
        few = Undefined(f"{counted(n, 'measured neuron')}, under {MIN_NEURONS}")
        return Calibration(few, few, few, few)
    if np.ptp(first_order) == 0 or np.ptp(exact) == 0:
        same = Undefined("all neurons have the same effect")
        return Calibration(same, same, same, _error(first_order, exact))
    return Calibration(
        _pearson(first_order, exact, neurons),
        _spearman(first_order, exact, neurons),
        _linear(_slope, first_order, exact, neurons),
        _error(first_order, exact),
    )


def direct_share(direct: np.ndarray, total: np.ndarray, neurons: int) -> Sampled | Undefined:
    """Σ direct·total / Σ total²: with the share of what later layers add to it, it makes 1.

    direct, total: float64 (n,), class means of a uniform sample of so many neurons.
    """
    if len(total) < MIN_NEURONS:
        return Undefined(f"{counted(len(total), 'measured neuron')}, under {MIN_NEURONS}")
    if not total.any():
        return Undefined("every neuron's effect is 0")
    return _linear(_projection, total, direct, neurons)


def missed_share(influence: np.ndarray, sample: Sample) -> Sampled | Undefined:
    """Share of the most influential neurons that are not among `sample.top`, which the first order chose.

    influence: float64 (F,), exact where measured. The most influential are those above the last of the `top_size` that
    lead the chosen ones.
    """
    neurons, chosen = len(influence), len(sample.top)
    outside = np.setdiff1d(sample.uniform, sample.top)
    leading = min(top_size(neurons), chosen)
    if chosen == neurons:
        return Sampled(0.0, 0.0, 0.0, neurons)
    if len(outside) < MIN_NEURONS:
        return Undefined(f"{counted(len(outside), 'measured neuron')} outside those that the first order chose")
    limit = np.sort(influence[sample.top])[-leading]
    above, n = int((influence[outside] > limit).sum()), len(outside)

    def share(part: float) -> float:
        missed = part * (neurons - chosen)
        return missed / (missed + leading)

    if n == neurons - chosen:
        return Sampled(share(above / n), share(above / n), share(above / n), n)
    low, high = _binomial_interval(above, n)
    return Sampled(share(above / n), share(low), share(high), n)


def ranks(spearman: Sampled | Undefined, all_measured: bool) -> bool | Undefined:
    """True where neurons may be ranked, else why they may not."""
    if all_measured:
        return True
    if isinstance(spearman, Undefined):
        return spearman
    if spearman.low is None or spearman.low < RANKING:
        return Undefined(
            f"the first order ranks neurons too poorly: Spearman's correlation with the exact effect is "
            f"{spearman.value:.2f}, its lower limit {spearman.low or 0:.2f}, under {RANKING}"
        )
    return True


def _error(first_order: np.ndarray, exact: np.ndarray) -> Sampled | Undefined:
    place = math.ceil(ERROR_SHARE * (len(exact) + 1))
    if place > len(exact):
        return Undefined(f"{counted(len(exact), 'measured neuron')}, too few for a quantile of {ERROR_SHARE:.0%}")
    value = float(np.sort(np.abs(first_order - exact))[place - 1])
    return Sampled(value, None, None, len(exact))


def _spearman(x: np.ndarray, y: np.ndarray, neurons: int) -> Sampled:
    """Of all neurons, from a sample of them, with an interval on Fisher's scale.

    A sample's is too low by about 3(ρ − τ)/n, as E ρ_n = ((n − 2)γ + 3τ)/(n + 1) for any n. τ is Kendall's (Kendall &
    Gibbons 1990). The interval is the wider of a jackknife's and that of normal numbers (Bonett & Wright 2000), each
    too narrow somewhere near 1. Of few neurons all ranks may agree by chance where one is left out, and 1 lies
    infinitely far on that scale. So a correlation counts as half an exchange of two neighbours from 1 at most.
    """
    from scipy.stats import rankdata

    n, ranks = len(x), [rankdata(v) for v in (x, y)]
    value = float(_correlation(*ranks)[0])
    if n == neurons:
        return Sampled(value, value, value, n)
    left = [
        _correlation(*(np.delete(_without(v, r, i), i) for v, r in zip((x, y), ranks, strict=True)))[0]
        for i in range(n)
    ]
    agreeing = (np.sign(x[:, None] - x) * np.sign(y[:, None] - y)).sum(1)
    tau, tau_left = agreeing.sum() / (n * (n - 1)), (agreeing.sum() - 2 * agreeing) / ((n - 1) * (n - 2))
    value = float(_of_all(np.array(value), tau, n, neurons))
    most = 1 - 6 / (n**3 - n)
    without_one = np.clip(_of_all(np.array(left), tau_left, n - 1, neurons), -most, most)
    return _fisher(value, without_one, neurons, math.sqrt((1 + value**2 / 2) / (n - 3)))


def _of_all(rho: np.ndarray, tau: np.ndarray, n: int, neurons: int) -> np.ndarray:
    """Spearman's correlation of all neurons, where n of them have rho and Kendall's tau."""
    gamma = ((n + 1) * rho - 3 * tau) / (n - 2)
    return np.clip(((neurons - 2) * gamma + 3 * tau) / (neurons + 1), -1.0, 1.0)


def _without(values: np.ndarray, ranks: np.ndarray, i: int) -> np.ndarray:
    """float64 (n,): the ranks that the other values have without the i-th."""
    return ranks - (values > values[i]) - 0.5 * (values == values[i])


def _pearson(x: np.ndarray, y: np.ndarray, neurons: int) -> Sampled:
    """With a jackknife interval on Fisher's scale."""
    return _fisher(float(_correlation(x, y)[0]), _correlation(x, y, _each_left_out(len(x))), neurons)


def _linear(
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray, neurons: int
) -> Sampled:
    """A statistic with its jackknife interval."""
    n = len(x)
    value = float(statistic(np.ones((1, n)), x, y)[0])
    reach = NORMAL_95 * float(jackknife_se(statistic(_each_left_out(n), x, y))) * _unseen(n, neurons)
    return Sampled(value, value - reach, value + reach, n)


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """float64 (k,): Pearson's r of x and y (n,) under weights (k, n), by default all 1; 0 where one is constant."""
    weights = np.ones((1, len(x))) if weights is None else weights
    x, y = x - x.mean(), y - y.mean()
    x, y = (v / max(float(np.abs(v).max()), np.finfo(float).tiny) for v in (x, y))
    n = weights.sum(1)
    mean_x, mean_y = weights @ x / n, weights @ y / n
    variances = (weights @ x**2 / n - mean_x**2) * (weights @ y**2 / n - mean_y**2)
    covariance = weights @ (x * y) / n - mean_x * mean_y
    return np.divide(covariance, np.sqrt(np.maximum(variances, 0)), out=np.zeros(len(n)), where=variances > 0)


def _slope(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 (k,): least-squares slope of y on x under weights (k, n)."""
    x, y = x - x.mean(), y - y.mean()
    n = weights.sum(1)
    mean_x, mean_y = weights @ x / n, weights @ y / n
    variance = weights @ x**2 / n - mean_x**2
    return np.divide(weights @ (x * y) / n - mean_x * mean_y, variance, out=np.zeros(len(n)), where=variance > 0)


def _projection(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 (k,): Σ xy / Σ x² under weights (k, n)."""
    square = weights @ x**2
    return np.divide(weights @ (x * y), square, out=np.zeros(len(square)), where=square > 0)


def _each_left_out(n: int) -> np.ndarray:
    return 1.0 - np.eye(n)


def _on_fisher_scale(r: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))


def _fisher(value: float, left: np.ndarray, neurons: int, least_se: float = 0.0) -> Sampled:
    """A correlation and its jackknife interval, from what it is without each of the n neurons (n,)."""
    n = len(left)
    if n == neurons:
        return Sampled(value, value, value, n)
    se = max(float(jackknife_se(_on_fisher_scale(left))), least_se)
    middle = float(_on_fisher_scale(np.array(min(value, max(left)))))
    return Sampled(value, math.tanh(middle - NORMAL_95 * se), max(value, math.tanh(middle + NORMAL_95 * se)), n)


def _binomial_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of Clopper & Pearson (1934)."""
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, 0.025))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 0.975))
    return low, high


def _unseen(n: int, neurons: int) -> float:
    """What a standard error is multiplied with where n of so many were drawn without replacement.

    The correction for a finite population is left out: a neuron that stands apart may not be among the drawn ones.
    """
    return 0.0 if n == neurons else 1.0
