"""Three regimes of the rank–influence curve: plateau, power law, rapid decay (METHODS §3, Fit).

Neurons are ranked by influence A; the curve is log A against log rank, natural logarithms throughout. The
plateau has a line of its own and may jump; the power law log A = β − κ·log r and the rapid decay join at r2.
A shape alone proves nothing: i.i.d. numbers show one too. The evidence that could is not computed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_POINTS = 5
MIN_SPAN = 0.7
"""Least width of a segment in log-rank units."""
GRID_STEP = 0.125
"""Spacing of candidate boundaries in log-rank units."""
BINS_PER_GRID_STEP = 6
"""Ranks closer than GRID_STEP / 6 in log rank are averaged, so that the cost does not grow with F."""
HUBER = 1.345
"""Huber threshold in robust standard deviations: 95 % efficient for Gaussian residuals."""
IRLS_STEPS = 25
ROUND_OFF = 1e-6
"""Excess, in log units, that the arithmetic alone may show."""
PAPER_CODE_BOUNDARIES = (3.5, 5.5)
"""Log ranks at which the papers' released code cuts the curve."""

PLATEAU, POWER_LAW, DECAY, CENSORED = "plateau", "powerlaw", "decay", "censored"


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
class Regimes:
    """The regimes of one class's influence curve over F neurons."""

    rank: np.ndarray
    """int64 (F,): rank of each neuron, from 1, the most influential first."""
    label: np.ndarray
    """str (F,): plateau, powerlaw, decay or censored; all empty where the fit is undefined."""
    censored: int
    fit: ThreeSegments | None
    paper_code: FixedBoundaries | None
    reason: str
    """Why `fit` is None, else empty."""


def fit_regimes(influence: np.ndarray, uncertainty: np.ndarray) -> Regimes:
    """Ranks, fit and labels of one curve.

    influence: (F,) ≥ 0. uncertainty: (F,), two standard errors plus the error bound; neurons with influence
    at or under it are censored from the fit and counted. Ties are ordered by neuron.
    """
    order = np.argsort(-influence, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    usable = (influence > uncertainty) & (influence > 0)
    ranks = np.flatnonzero(usable[order]) + 1
    log_a = np.log(influence[order][ranks - 1])
    fit, reason = _three_segments(ranks, log_a)
    label = np.full(len(order), "" if fit is None else DECAY, dtype="<U8")
    if fit is not None:
        label[rank <= fit.r2] = POWER_LAW
        label[rank <= fit.r1] = PLATEAU
        label[~usable] = CENSORED
    return Regimes(rank, label, int((~usable).sum()), fit, _fixed_boundaries(ranks, log_a), reason)


def _three_segments(ranks: np.ndarray, log_a: np.ndarray) -> tuple[ThreeSegments | None, str]:
    if len(ranks) < 3 * MIN_POINTS:
        return None, f"{len(ranks)} uncensored neurons, under {3 * MIN_POINTS}"
    x, log_a, weight, ranks = _binned(ranks, log_a)
    cuts = _boundaries(ranks)
    pairs = [(i, j) for i in cuts for j in cuts if _wide_enough(ranks, i, j)]
    if not pairs:
        return None, f"the uncensored ranks span {x[-1] - x[0]:.2f} log units, too few for three segments"
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    scale = _robust_scale(x, log_a, weight, first, second)
    loss, coefficients = _fit(_three_design(x, first, second), log_a, weight, scale)
    best = int(np.argmin(loss))
    i, j = int(first[best]), int(second[best])
    _, plateau_slope, level, slope, bend = coefficients[best]
    beta = level - slope * x[j - 1]
    top = slice(0, i)
    mean_over_top = weight[top] / weight[top].sum()
    one, _ = _fit(_line_design(x), log_a, weight, scale)
    two, _ = _fit(_two_designs(x, cuts, ranks), log_a, weight, scale)
    return ThreeSegments(
        r1=int(ranks[i - 1]),
        r2=int(ranks[j - 1]),
        last=int(ranks[-1]),
        kappa=float(-slope),
        beta=float(beta),
        plateau_slope=float(plateau_slope),
        plateau_mean=float(mean_over_top @ log_a[top]),
        decay_slope=float(slope + bend),
        excess=float(mean_over_top @ (log_a[top] - beta - slope * x[top])),
        gain_over_one=_gain(loss[best], one.min()),
        gain_over_two=_gain(loss[best], two.min()),
    ), ""


def _gain(loss: float, reference: float) -> float:
    return float(1 - loss / reference) if reference > 0 else 0.0


def _binned(ranks: np.ndarray, log_a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean log rank, mean log A, weight and last rank of each bin of the log-rank axis.

    Weights are each rank's share of that axis, so that they are uniform in log rank; they sum to 1.
    """
    share = np.log((ranks + 0.5) / (ranks - 0.5))
    _, start = np.unique((np.log(ranks) * BINS_PER_GRID_STEP / GRID_STEP + 1e-9).astype(int), return_index=True)
    weight = np.add.reduceat(share, start)
    x = np.add.reduceat(share * np.log(ranks), start) / weight
    y = np.add.reduceat(share * log_a, start) / weight
    return x, y, weight / weight.sum(), ranks[np.append(start[1:], len(ranks)) - 1]


def _boundaries(ranks: np.ndarray) -> np.ndarray:
    """Candidate boundaries as numbers of points up to and including them, on a fixed grid of log rank."""
    grid = np.arange(0.0, math.log(ranks[-1]), GRID_STEP)
    counts = np.searchsorted(ranks, np.exp(grid) + 1e-9, side="right")
    return np.unique(counts[counts > 0])


def _wide_enough(ranks: np.ndarray, i: int, j: int) -> bool:
    """Whether points [0, i), [i, j), [j, n) each hold enough points and log-rank width."""
    edges = ((0, i), (i, j), (j, len(ranks)))
    return all(
        stop - start >= MIN_POINTS and math.log(ranks[stop - 1] / (ranks[start - 1] if start else 1)) >= MIN_SPAN
        for start, stop in edges
    )


def _three_design(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(pairs, points, 5): plateau level and slope, then level at r2, slope, and bend after r2."""
    index = np.arange(len(x))
    top = (index < first[:, None]).astype(float)
    from_r2 = x - x[second - 1][:, None]
    rest = 1 - top
    return np.stack([top, top * x, rest, rest * from_r2, rest * np.maximum(from_r2, 0)], axis=2)


def _line_design(x: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(x), x], axis=1)[None]


def _two_designs(x: np.ndarray, cuts: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """(candidates, points, 4): every plateau that jumps to one line, and every line with one bend."""
    index = np.arange(len(x))
    inside = np.array(
        [
            c
            for c in cuts
            if MIN_POINTS <= c <= len(x) - MIN_POINTS
            and min(math.log(ranks[c - 1]), math.log(ranks[-1] / ranks[c - 1])) >= MIN_SPAN
        ]
    )
    top = (index < inside[:, None]).astype(float)
    jump = np.stack([top, top * x, 1 - top, (1 - top) * x], axis=2)
    bend = np.maximum(x - x[inside - 1][:, None], 0)
    ones = np.ones_like(bend)
    joined = np.stack([ones, ones * x, bend, np.zeros_like(bend)], axis=2)
    return np.concatenate([jump, joined])


def _solve(design: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares for each candidate: design (k, n, c), weight (k, n) or (n,)."""
    weighted = design * np.broadcast_to(weight, design.shape[:2])[:, :, None]
    gram = np.swapaxes(weighted, 1, 2) @ design
    return np.einsum("kij,kj->ki", np.linalg.pinv(gram, hermitian=True), np.swapaxes(weighted, 1, 2) @ y)


def _robust_scale(x: np.ndarray, y: np.ndarray, weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """1.4826 × weighted median |residual| of the best least-squares fit: one scale for all candidates."""
    design = _three_design(x, first, second)
    residual = y - np.einsum("knc,kc->kn", design, _solve(design, y, weight))
    size = np.abs(residual[int(np.argmin((weight * residual**2).sum(1)))])
    order = np.argsort(size)
    median = size[order][np.searchsorted(np.cumsum(weight[order]), 0.5)]
    return float(max(1.4826 * median, 1e-9))


def _fit(design: np.ndarray, y: np.ndarray, weight: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Huber losses (k,) and coefficients (k, c) of each candidate, by iteratively reweighted least squares."""
    threshold = HUBER * scale
    own = np.broadcast_to(weight, design.shape[:2])
    for _ in range(IRLS_STEPS):
        coefficients = _solve(design, y, own)
        size = np.abs(y - np.einsum("knc,kc->kn", design, coefficients))
        own = weight * np.minimum(1.0, threshold / np.maximum(size, 1e-300))
    huber = np.where(size <= threshold, size**2 / 2, threshold * (size - threshold / 2))
    return (weight * huber).sum(1), coefficients


def _fixed_boundaries(ranks: np.ndarray, log_a: np.ndarray) -> FixedBoundaries | None:
    r1, r2 = (int(math.exp(b)) for b in PAPER_CODE_BOUNDARIES)
    if len(ranks) < 2 or ranks[-1] <= r2 or ranks[0] > r1:
        return None
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
