"""The rank–influence curve of an earlier layer: exact where neurons were measured, else the calibrated first order.

The line log A = α + β·log Δ¹ is fitted to all neurons that were measured, the top and the random ones. The first order
chose the top, and a selection by what a line is drawn over does not bend it. So the rest of the curve joins the
measured top without a step. What is left of the first order's error is known from the random neurons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.earlier_layers.estimate import ClassMean, TextPieces
from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.analyses.regimes.evidence import ShapeEvidence, shape_p_values
from rtdyn.analyses.regimes.fit import fit_regimes
from rtdyn.analyses.regimes.resampled import CORRECTED, resampled
from rtdyn.analyses.regimes.summary import PLATEAU_FRACTION, FitValue, corrected_values
from rtdyn.analyses.statistics import CLEAR_SE, as_numpy
from rtdyn.counted import counted
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

ERROR_SHARE = 0.9
"""Share of the random neurons whose calibrated influence errs by at most `LayerCurve.error`."""
MOST_ERROR = 0.25
"""`LayerCurve.error` over which there is no fit. Values on a line scatter less than neurons do, so that their curve is
too flat, and a top that was not measured is smeared. A top raised by a quarter counts as none (`judge/claims.py`)."""


@dataclass(frozen=True)
class LayerCurve:
    """One class's curve of a layer."""

    values: Mapping[str, FitValue | Undefined]
    """The fit's numbers without the winner's curse, by the names of the last layer's."""
    shape: ShapeEvidence | Undefined
    error: float | Undefined
    """Share of itself that a calibrated influence errs by at most, for ERROR_SHARE of the random neurons."""
    uncensored: int
    """Neurons that the fit is of; 0 without one."""


def known_influence(mean: ClassMean, sample: Sample) -> np.ndarray:
    """float64 (F,) ≥ 0, nats: |mean| where it was measured, else what the line makes of the first order."""
    return np.where(sample.measured, np.abs(mean.value), _on_line(mean, sample))


def _on_line(mean: ClassMean, sample: Sample) -> np.ndarray:
    """float64 (F,) ≥ 0, nats: of every neuron what the line makes of its first order."""
    exact, first = np.abs(mean.value), np.abs(mean.first_order)
    fitted = sample.measured & (exact > 0) & (first > 0)
    x, y = np.log(first[fitted]), np.log(exact[fitted])
    if len(x) == 0:
        return first
    slope = float(np.cov(x, y)[0, 1] / x.var(ddof=1)) if np.ptp(x) > 0 else 1.0
    line = np.zeros_like(first)
    line[first > 0] = np.exp(y.mean() + slope * (np.log(first[first > 0]) - x.mean()))
    return line


def layer_curve(mean: ClassMean, text: TextPieces, sample: Sample, seed: int) -> LayerCurve:
    """The curve of |mean Δ| or of mean |Δ|, whichever `mean` is of. seed: of the halves of the text."""
    measured, known, error = sample.measured, known_influence(mean, sample), line_error(mean, sample)
    if isinstance(error, Undefined) or error > MOST_ERROR:
        why = error if isinstance(error, Undefined) else _too_far(error, len(known))
        return LayerCurve(dict.fromkeys((*CORRECTED, PLATEAU_FRACTION), why), why, error, 0)
    first = np.abs(mean.first_order)
    factor = np.divide(known, first, out=np.zeros_like(known), where=first > 0)
    se = np.where(measured, mean.se, factor * mean.first_order_se)
    uncertainty = CLEAR_SE * se + np.where(measured, 0.0, error * known)
    counts = as_numpy(text.by_piece(text.window_n))
    held = counts > 0
    by_window = np.where(measured, mean.window_sum, factor * mean.first_order_sum)
    halves = resampled(
        as_numpy(text.by_piece(by_window))[held], counts[held], uncertainty, stream(seed, "resampled text")
    )
    regimes = fit_regimes(known, uncertainty)
    return LayerCurve(
        corrected_values(regimes, halves),
        shape_p_values(known, uncertainty, seed=seed),
        error,
        len(known) - regimes.censored,
    )


def _too_far(error: float, neurons: int) -> Undefined:
    return Undefined(
        f"influences that were not measured may err by {error:.0%}, over {MOST_ERROR:.0%}; --exact-neurons {neurons} "
        "measures all"
    )


def line_error(mean: ClassMean, sample: Sample) -> float | Undefined:
    """Share of itself that an influence of the curve errs by at most, for ERROR_SHARE of those that are on the line."""
    return 0.0 if sample.measured.all() else line_scatter(mean, sample)


def line_scatter(mean: ClassMean, sample: Sample) -> float | Undefined:
    """Share of itself that the line errs by at most, for ERROR_SHARE of the random neurons outside the top.

    Where every neuron was measured, of all random ones.
    """
    random = sample.uniform if sample.measured.all() else np.setdiff1d(sample.uniform, sample.top)
    place = math.ceil(ERROR_SHARE * (len(random) + 1))
    if place > len(random):
        return Undefined(f"{counted(len(random), 'measured neuron')} outside the top, too few for a quantile of 90 %")
    line, exact = _on_line(mean, sample)[random], np.abs(mean.value)[random]
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.where(exact == line, 0.0, np.abs(exact - line) / line)
    return float(np.sort(off)[place - 1])
