"""How good the first order is, from a uniform sample of neurons whose effects are known exactly (METHODS §11).

All is of this text and these F neurons. Sums over neurons take those that the first order chose as they are, and what
the random ones among the others stand for. Where all neurons were measured, intervals have no width. From a sample,
Pearson's correlation and the slope have none: one neuron that stands apart decides them, and may not be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.analyses.statistics import jackknife_se
from rtdyn.analyses.top import top_size
from rtdyn.counted import counted
from rtdyn.intervals import QUANTILES_95, t_quantile
from rtdyn.undefined import Undefined

MIN_NEURONS = 10
"""Neurons under which nothing is said of the first order."""
RANKING = 0.8
"""Lower limit of Spearman's correlation under which the first order ranks no neurons."""
ERROR_SHARE = 0.9
"""Share of the neurons whose first order errs by at most the calibrated error."""

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""float64 (k,), of weights (k, n) and two numbers (n,) of each neuron."""


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


def calibrate(first_order: np.ndarray, exact: np.ndarray, sample: Sample) -> Calibration:
    """first_order, exact: float64 (F,), class means of all neurons; the exact ones count where they were measured."""
    every = len(np.union1d(sample.top, sample.uniform)) == len(exact)
    x, y = (v if every else v[sample.uniform] for v in (first_order, exact))
    n = len(x)
    if n < MIN_NEURONS:
        few = Undefined(f"{counted(n, 'measured neuron')}, under {MIN_NEURONS}")
        return Calibration(few, few, few, few)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        same = Undefined("all neurons have the same effect")
        return Calibration(same, same, same, _error(x, y))
    return Calibration(
        _if_all(_of_sums(_correlation, first_order, exact, sample), len(exact)),
        _spearman(x, y, len(exact)),
        _if_all(_of_sums(_slope, first_order, exact, sample), len(exact)),
        _error(x, y),
    )


def direct_share(direct: np.ndarray, total: np.ndarray, sample: Sample) -> Sampled | Undefined:
    """Σ direct·total / Σ total²: with the share of what later layers add to it, it makes 1.

    direct, total: float64 (F,), class means of all neurons; the total ones count where they were measured.
    """
    if len(sample.uniform) < MIN_NEURONS:
        return Undefined(f"{counted(len(sample.uniform), 'measured neuron')}, under {MIN_NEURONS}")
    if not total[sample.measured].any():
        return Undefined("every neuron's effect is 0")
    return _of_sums(_projection, total, direct, sample)


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
    """Of all neurons, from a sample of them.

    Its interval is of a jackknife on Fisher's scale. It is no narrower than that of normal numbers (Bonett & Wright
    2000). Nor is it narrower than Poisson's of exchanges of neighbours. Each takes 12/(n³ − n) from 1, and half of one
    counts at least. None of these knows of neurons that were not drawn. So at the end nearer to 0, as many as the
    sample may have missed count as unrelated. A share s of these makes (1 − s)ρ of ρ. Of effects of both signs they
    count as reversed, which makes (1 − 2s)ρ.
    """
    from scipy.stats import rankdata

    n = len(x)
    if n == neurons:
        value = float(_correlation(np.ones((1, n)), rankdata(x), rankdata(y))[0])
        return Sampled(value, value, value, n)
    value, without_one = _spearman_of_all(x, y, neurons)
    exchange = 12 / (n**3 - n)
    most = 1 - exchange / 2
    least_se = max(math.sqrt((1 + value**2 / 2) / (n - 3)), math.sqrt(exchange / max(1 - value, exchange / 2)) / 2)
    low, high = _fisher(value, np.clip(without_one, -most, most), least_se)
    kept = 1 - (2 if min(x.min(), y.min()) < 0 else 1) * may_be_missed(n, neurons) / neurons
    return Sampled(value, min(low, low * kept), max(high, high * kept), n)


def _spearman_of_all(x: np.ndarray, y: np.ndarray, neurons: int) -> tuple[float, np.ndarray]:
    """Spearman's correlation of all neurons from n of them, and from n − 1, each left out, (n,).

    A sample's is too low by about 3(ρ − τ)/n, as E ρ_n = ((n − 2)γ + 3τ)/(n + 1) for any n. τ is Kendall's (Kendall &
    Gibbons 1990). With ties this holds of both parts of the ratio, sums of signs of differences.
    """
    n = len(x)
    by_x, by_y = (np.sign(v[:, None] - v) for v in (x, y))
    parts, parts_left = [], []
    for a, b in ((by_x, by_y), (by_x, by_x), (by_y, by_y)):
        places_a, places_b, pairs = a.sum(1), b.sum(1), (a * b).sum(1)
        places = places_a @ places_b
        places_left = places - places_a * places_b - places_a @ b - places_b @ a + pairs
        parts.append(_grown(places, pairs.sum(), n, neurons))
        parts_left.append(_grown(places_left, pairs.sum() - 2 * pairs, n - 1, neurons))
    return float(_ratio(*parts)), _ratio(*parts_left)


def _grown(places: np.ndarray, pairs: np.ndarray, n: int, neurons: int) -> np.ndarray:
    """What 3/(N³ − N) Σ places·places is of all N neurons, from n of them and the sum of agreeing pairs."""
    tau = pairs / (n * (n - 1))
    gamma = (3 * places / (n**2 - n) - 3 * tau) / (n - 2)
    return ((neurons - 2) * gamma + 3 * tau) / (neurons + 1)


def _ratio(both: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """A correlation from its covariance and variances; 0 where one is constant."""
    varying = (of_x > 0) & (of_y > 0)
    scale = np.sqrt(np.where(varying, of_x * of_y, 1.0))
    return np.where(varying, np.clip(both / scale, -1.0, 1.0), 0.0)


def may_be_missed(n: int, neurons: int) -> int:
    """The most neurons of which a random sample of n holds none with a probability of 2.5 %."""
    missed, chance = 0, 1.0
    while missed < neurons - n:
        chance *= (neurons - n - missed) / (neurons - missed)
        if chance < QUANTILES_95[0]:
            break
        missed += 1
    return missed


def _of_sums(statistic: Statistic, x: np.ndarray, y: np.ndarray, sample: Sample) -> Sampled | Undefined:
    """A statistic of sums over all neurons. x, y: float64 (F,), which count where they were measured.

    Its interval is of a jackknife over the random neurons outside the top, with Student's t.
    """
    outside = np.setdiff1d(sample.uniform, sample.top)
    others, n = len(x) - len(sample.top), len(outside)
    if n < min(MIN_NEURONS, others):
        few = f"{counted(n, 'measured neuron')} outside those that the first order chose, under {MIN_NEURONS}"
        return Undefined(few)
    used = np.concatenate([sample.top, outside])
    drawn = np.arange(len(used)) >= len(sample.top)
    value = float(statistic(np.where(drawn, others / max(n, 1), 1.0)[None], x[used], y[used])[0])
    if n == others:
        return Sampled(value, value, value, len(used))
    left = statistic(np.where(drawn, (1 - np.eye(len(used))[drawn]) * others / (n - 1), 1.0), x[used], y[used])
    reach = _t_of_tails(left) * float(jackknife_se(left))
    return Sampled(value, value - reach, value + reach, len(used))


def _t_of_tails(left: np.ndarray) -> float:
    """Student's 97.5 % point, with what a variance from n values is worth where their kurtosis is κ.

    left: float64 (n,), a statistic without each. That variance scatters by √((κ − 1)/n) of itself, as with
    2n/(κ − 1) degrees of freedom.
    """
    from scipy.special import stdtrit

    n, off = len(left), left - left.mean()
    variance = np.mean(off**2)
    if variance == 0:
        return 0.0
    kurtosis = max(1 + 1 / n, np.mean((off**2 / variance) ** 2))
    return float(stdtrit(min(n - 1, 2 * n / (kurtosis - 1)), QUANTILES_95[1]))


def _if_all(number: Sampled | Undefined, neurons: int) -> Sampled | Undefined:
    """The same without its interval where not all of so many neurons were measured."""
    return number if isinstance(number, Undefined) or number.n == neurons else replace(number, low=None, high=None)


def _correlation(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 (k,): Pearson's r of x and y (n,) under weights (k, n); 0 where one is constant."""
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


def _on_fisher_scale(r: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))


def _fisher(value: float, left: np.ndarray, least_se: float) -> tuple[float, float]:
    """The jackknife interval of a correlation, from what it is without each of the n neurons (n,)."""
    se = max(float(jackknife_se(_on_fisher_scale(left))), least_se)
    below, above = _on_fisher_scale(np.array([min(value, max(left)), value]))
    reach = t_quantile(len(left)) * se
    return math.tanh(below - reach), max(value, math.tanh(above + reach))


def _binomial_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of Clopper & Pearson (1934)."""
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, 0.025))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 0.975))
    return low, high
