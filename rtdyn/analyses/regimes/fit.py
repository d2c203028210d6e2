"""Three regimes of the rank–influence curve: plateau, power law, rapid decay (METHODS §3).

Neurons are ranked by influence A; the curve is log A against log rank, natural logarithms throughout. The plateau has a
line of its own and may jump. The power law log A = β − κ·log r and the rapid decay join at r2. Boundaries (i, j)
minimise the Huber loss Σ_r w_r·ρ(log A_r − fit), w_r uniform in log rank, over a fixed grid.
A shape alone proves nothing: i.i.d. numbers show one too. The evidence is in `evidence` and `contrast`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rtdyn.analyses.kernels import huber
from rtdyn.analyses.threads import in_threads
from rtdyn.counted import counted
from rtdyn.names import CENSORED, DECAY, PLATEAU, POWER_LAW
from rtdyn.undefined import Undefined

MIN_POINTS = 5
MIN_SPAN = 0.7
"""Least width of a segment in log-rank units."""
GRID_STEP = 0.125
"""Spacing of candidate boundaries in log-rank units."""
BINS_PER_GRID_STEP = 6
"""Ranks closer than GRID_STEP / 6 in log rank are averaged, so that the cost does not grow with F."""
HUBER = 1.345
"""Huber threshold in robust standard deviations: 95 % efficient for Gaussian residuals."""
LEAST_SCALE = 1e-9
"""Scale of residuals, in log units, that the arithmetic alone may show."""
ROUND_OFF = 1e-6
"""Excess, in log units, that the arithmetic alone may show."""
TASK_CURVES = 16
"""Curves that a thread takes at a time."""
PAPER_CODE_BOUNDARIES = (3.5, 5.5)
"""Log ranks at which the papers' released code cuts the curve."""


@dataclass(frozen=True)
class ThreeSegments:
    """A fitted curve. Ranks are from 1; slopes are d log A / d log rank."""

    r1: int
    """Last rank of the plateau."""
    r2: int
    """Last rank of the power law."""
    last: int
    """Last uncensored rank."""
    kappa: float
    """Power-law exponent: A ∝ r^−κ on (r1, r2]."""
    beta: float
    """Power-law intercept, log A at rank 1."""
    plateau_slope: float
    plateau_intercept: float
    """Log A of the plateau's line at rank 1."""
    plateau_mean: float
    """Weighted mean of log A over the plateau."""
    decay_slope: float
    excess: float
    """Weighted mean over the plateau of log A minus the extended power law, in log units."""
    gain_over_one: float
    """Share of the Huber loss of a single line that the three segments remove."""
    gain_over_two: float
    """Share of the Huber loss of the best two segments that the three remove."""

    @property
    def raised(self) -> bool:
        """Whether the top lies above the extended power law: a plateau, else a mere flattening."""
        return self.excess > ROUND_OFF


@dataclass(frozen=True)
class FixedBoundaries:
    """`paper-code`: fixed boundaries and one least-squares line over all uncensored ranks as reference."""

    r1: int
    r2: int
    slope: float
    intercept: float
    plateau_deviation: float
    """Mean of log A minus the line over ranks 1..r1."""
    decay_deviation: float
    """The same over ranks above r2."""


@dataclass(frozen=True)
class Ends:
    """First and last rank that the grid lets a boundary be; a fit at one cannot say how much farther it is."""

    r1: tuple[int, int]
    r2: tuple[int, int]


@dataclass(frozen=True)
class Regimes:
    """The regimes of one class's influence curve over F neurons."""

    rank: np.ndarray
    """int64 (F,): rank of each neuron, from 1, the most influential first."""
    label: np.ndarray
    """str (F,): plateau, powerlaw, decay or censored; all empty where the fit is undefined."""
    censored: int
    ends: Ends | Undefined
    fit: ThreeSegments | Undefined
    paper_code: FixedBoundaries | Undefined


def fit_regimes(influence: np.ndarray, uncertainty: np.ndarray) -> Regimes:
    """Ranks, fit and labels of one curve.

    influence: (F,) ≥ 0. uncertainty: (F,), two standard errors plus the error bound; neurons with influence
    at or under it are censored from the fit and counted. Ties are ordered by neuron.
    """
    order, ranks, log_a = ranked(influence, uncertainty)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    fit = fit_ranks(ranks, log_a)
    label = np.full(len(order), "" if isinstance(fit, Undefined) else DECAY, dtype="<U8")
    if not isinstance(fit, Undefined):
        label[rank <= fit.r2] = POWER_LAW
        label[rank <= fit.r1] = PLATEAU
        usable = np.zeros(len(order), dtype=bool)
        usable[order[ranks - 1]] = True
        label[~usable] = CENSORED
    axis = axis_of(ranks)
    ends = axis if isinstance(axis, Undefined) else axis.ends
    return Regimes(rank, label, len(order) - len(ranks), ends, fit, _fixed_boundaries(ranks, log_a))


def ranked(influence: np.ndarray, uncertainty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neurons from the most influential (F,), and the rank (m,), from 1, and log A (m,) of those not censored."""
    order = np.argsort(-influence, kind="stable")
    usable = (influence > uncertainty) & (influence > 0)
    ranks = np.flatnonzero(usable[order]) + 1
    return order, ranks, np.log(influence[order[ranks - 1]])


def fit_ranks(ranks: np.ndarray, log_a: np.ndarray) -> ThreeSegments | Undefined:
    """The three segments of log_a (m,) at ascending ranks (m,), or why there are none."""
    axis = _full_axis(len(ranks)) if len(ranks) and ranks[-1] == len(ranks) else axis_of(ranks)
    return axis if isinstance(axis, Undefined) else _segments(axis, log_a)


def fit_curves(influence: np.ndarray, uncertainty: np.ndarray | float = 0.0) -> list[ThreeSegments | Undefined]:
    """The fit of each of k curves, or why there is none, on as many threads as torch has.

    influence: (k, F) ≥ 0. uncertainty: as for `fit_regimes`, of each curve (k, F), of all (F,), or a number.
    """
    bounds = np.broadcast_to(uncertainty, influence.shape)

    def fit_curve(index: int) -> ThreeSegments | Undefined:
        _, ranks, log_a = ranked(influence[index], bounds[index])
        return fit_ranks(ranks, log_a)

    return _threaded(fit_curve, len(influence))


def fit_sorted(log_a: np.ndarray) -> list[ThreeSegments | Undefined]:
    """The fit of each of k curves log_a (k, m), descending, at ranks 1..m; threads as for `fit_curves`."""
    axis = _full_axis(log_a.shape[1])
    if isinstance(axis, Undefined):
        return [axis] * len(log_a)
    return _threaded(lambda index: _segments(axis, log_a[index]), len(log_a))


def _threaded(fit_curve: Callable[[int], ThreeSegments | Undefined], count: int) -> list[ThreeSegments | Undefined]:
    # a fit is so short that a task of its own would cost as much
    tasks = [range(start, min(count, start + TASK_CURVES)) for start in range(0, count, TASK_CURVES)]
    return [fit for fits in in_threads(lambda task: [fit_curve(index) for index in task], tasks) for fit in fits]


@dataclass(frozen=True)
class Axis:
    """The log-rank axis of n bins and the boundaries on it; a boundary is the number of bins up to it."""

    start: np.ndarray
    """First rank's place in each bin."""
    share: np.ndarray
    """Width of each rank on the axis."""
    width: np.ndarray
    """Of each bin, the sum of its ranks'."""
    x: np.ndarray
    """Mean log rank."""
    weight: np.ndarray
    """Share of the axis; they sum to 1."""
    last: np.ndarray
    """Last rank."""
    first: np.ndarray
    """(pairs,), ascending: ends of the plateau."""
    second: np.ndarray
    """(pairs,): ends of the power law."""
    inside: np.ndarray
    """Boundaries of two segments."""

    @property
    def ends(self) -> Ends:
        """Of the boundaries on it."""
        r1, r2 = ((int(self.last[cut.min() - 1]), int(self.last[cut.max() - 1])) for cut in (self.first, self.second))
        return Ends(r1, r2)

    def binned(self, log_a: np.ndarray) -> np.ndarray:
        """Mean log A of each bin, (bins,), from that of each rank (m,); ranks weigh by their width."""
        return np.add.reduceat(self.share * log_a, self.start) / self.width


@lru_cache(maxsize=8)
def _full_axis(points: int) -> Axis | Undefined:
    return axis_of(np.arange(1, points + 1))


def axis_of(ranks: np.ndarray) -> Axis | Undefined:
    """Bins and boundaries for curves known at `ranks` (m,), ascending, or why they are too few."""
    if len(ranks) < 3 * MIN_POINTS:
        return Undefined(f"{counted(len(ranks), 'uncensored neuron')}, under {3 * MIN_POINTS}")
    # each rank's share of the axis, so that weights are uniform in log rank
    share = np.log((ranks + 0.5) / (ranks - 0.5))
    log_rank = np.log(ranks)
    _, start = np.unique((log_rank * BINS_PER_GRID_STEP / GRID_STEP + 1e-9).astype(int), return_index=True)
    width = np.add.reduceat(share, start)
    x = np.add.reduceat(share * log_rank, start) / width
    last = ranks[np.append(start[1:], len(ranks)) - 1]
    n, end = len(x), np.log(last)
    grid = np.arange(0.0, end[-1], GRID_STEP)
    cuts = np.searchsorted(last, np.exp(grid) + 1e-9, side="right")
    cuts = np.unique(cuts[cuts > 0])
    at = end[cuts - 1]
    after_first = (cuts >= MIN_POINTS) & (at >= MIN_SPAN)
    before_last = (cuts <= n - MIN_POINTS) & (end[-1] - at >= MIN_SPAN)
    apart = (cuts[None] - cuts[:, None] >= MIN_POINTS) & (at[None] - at[:, None] >= MIN_SPAN)
    first, second = np.nonzero(after_first[:, None] & before_last[None] & apart)
    if len(first) == 0:
        span = f"{log_rank[-1] - log_rank[0]:.2f} log units"
        return Undefined(f"the uncensored ranks span {span}, too few for three segments")
    return Axis(
        start, share, width, x, width / width.sum(), last, cuts[first], cuts[second], cuts[after_first & before_last]
    )


def _segments(axis: Axis, log_a: np.ndarray) -> ThreeSegments:
    x, weight, y = axis.x, axis.weight, axis.binned(log_a)
    centre = float(weight @ y)
    best, loss, one, two, tops, rests = huber.segments(
        x, y - centre, weight, axis.first, axis.second, axis.inside, HUBER, LEAST_SCALE
    )
    i, j = int(axis.first[best]), int(axis.second[best])
    plateau_slope = tops[i, 1]
    level, slope, bend = rests[best]
    beta = level + centre - slope * x[j - 1]
    mean_over_top = weight[:i] / weight[:i].sum()
    return ThreeSegments(
        r1=int(axis.last[i - 1]),
        r2=int(axis.last[j - 1]),
        last=int(axis.last[-1]),
        kappa=float(-slope),
        beta=float(beta),
        plateau_slope=float(plateau_slope),
        plateau_intercept=float(tops[i, 0] + centre),
        plateau_mean=float(mean_over_top @ y[:i]),
        decay_slope=float(slope + bend),
        excess=float(mean_over_top @ (y[:i] - beta - slope * x[:i])),
        gain_over_one=_gain(loss, one),
        gain_over_two=_gain(loss, two),
    )


def _gain(loss: float, reference: float) -> float:
    return float(1 - loss / reference) if reference > 0 else 0.0


def _fixed_boundaries(ranks: np.ndarray, log_a: np.ndarray) -> FixedBoundaries | Undefined:
    r1, r2 = (int(math.exp(b)) for b in PAPER_CODE_BOUNDARIES)
    if len(ranks) < 2 or ranks[-1] <= r2 or ranks[0] > r1:
        return Undefined("too few uncensored neurons for the fixed boundaries")
    x = np.log(ranks)
    slope, intercept = np.polyfit(x, log_a, 1)
    deviation = log_a - intercept - slope * x
    return FixedBoundaries(
        r1,
        r2,
        float(slope),
        float(intercept),
        float(deviation[ranks <= r1].mean()),
        float(deviation[ranks > r2].mean()),
    )
