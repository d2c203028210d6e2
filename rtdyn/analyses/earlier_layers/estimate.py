"""Class means of a layer's neurons: the first order, corrected by what was run again (METHODS §11).

The estimate of a neuron's class mean starts from the mean of Δ¹. The sum of (Δ − Δ¹)/π is added, over the windows that
it was drawn on with probability π. Where it was measured on all windows, it is the mean of Δ itself. Both have two
errors. The standard error is that of independent pieces of text, the draws being part of what a piece shows. The
sampling error is how far the estimate may lie from the mean of Δ on this very text. It is calibrated on neurons of the
uniform sample, whose Δ is known. Their errors are taken as if they had only been drawn, in units of a scale that every
neuron has. The 95 % quantile of these is the error (split conformal prediction, Papadopoulos et al. 2002). So 95 % of
the neurons lie within, whatever the distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.analyses.statistics import as_numpy, clustered_se, indicator

COVERAGE = 0.95
"""Of the sampling errors."""


@dataclass(frozen=True)
class TextPieces:
    """One class's positions by independent piece of text, of which there are g; W windows hold measured positions."""

    window_n: np.ndarray
    """int64 (W,): the class's positions in each."""
    of_window: np.ndarray
    """int64 (W,): the piece, 0 to g − 1, that each window is of."""
    mean_parts: np.ndarray
    """float64 (g, F): what each piece adds to ā beyond its share."""

    @property
    def n(self) -> int:
        """Positions of the class."""
        return int(self.window_n.sum())

    @property
    def clusters(self) -> int:
        """Pieces that hold positions of the class."""
        return len(np.unique(self.of_window[self.window_n > 0]))

    def by_piece(self, by_window: np.ndarray) -> torch.Tensor:
        """float64 (g, …): sums over pieces of sums over windows (W, …)."""
        pieces = indicator(torch.from_numpy(self.of_window), len(self.mean_parts))
        return pieces @ torch.from_numpy(by_window).double()


@dataclass(frozen=True)
class ClassMean:
    """A class mean of each of F neurons; float64 (F,), nats."""

    value: np.ndarray
    """The mean of Δ where it was measured, else the corrected first order, unbiased: of |Δ| it may be under 0."""
    se: np.ndarray
    """Standard error, of the text and of the sample together; NaN for a single piece of text."""
    sample_error: np.ndarray
    """Half-width of the 95 % interval of the mean on this text; 0 where measured, NaN where nothing calibrates it."""
    first_order: np.ndarray
    """The mean of Δ¹."""
    first_order_se: np.ndarray
    """Its standard error, of the text."""
    first_order_sum: np.ndarray
    """float64 (W, F): sums of Δ¹ over each window's positions."""
    window_sum: np.ndarray
    """float64 (W, F): what each window adds to n times the value."""


def class_mean(
    first: np.ndarray,
    exact: np.ndarray,
    size: np.ndarray,
    slope: np.ndarray,
    sample: Sample,
    text: TextPieces,
) -> ClassMean:
    """The estimate of one class.

    first: float64 (W, F), sums of Δ¹ over each window's positions, or of |Δ¹|. exact: the same of Δ, NaN where it was
    not run again. size: the same of |Δ¹|. slope: float64 (F,), what the sum over all windows changes by with ā.
    """
    n, measured = text.n, sample.measured
    difference = exact - first
    drawn = np.where(sample.drawn, difference / sample.probability, 0.0)
    window_sum = first + np.where(measured, difference, drawn)
    by_piece = text.by_piece(window_sum)
    counts = text.by_piece(text.window_n)
    drift = torch.from_numpy(slope / n * text.mean_parts)
    se, first_se = (as_numpy(clustered_se(sums, counts, drift)) for sums in (by_piece, text.by_piece(first)))
    return ClassMean(
        value=window_sum.sum(0) / n,
        se=se,
        sample_error=np.where(measured, 0.0, _sample_error(difference, drawn, size, sample) / n),
        first_order=first.sum(0) / n,
        first_order_se=first_se,
        first_order_sum=first,
        window_sum=window_sum,
    )


def _sample_error(difference: np.ndarray, drawn: np.ndarray, size: np.ndarray, sample: Sample) -> np.ndarray:
    """float64 (F,): how far the sum of draws may be from the sum of all differences.

    difference (W, F): Δ − Δ¹, NaN where unknown; drawn (W, F): the same by its probability, 0 where not drawn.
    """
    scale = _scale(drawn, size, sample)
    calibrating = np.setdiff1d(sample.uniform, sample.top)
    place = math.ceil(COVERAGE * (len(calibrating) + 1))
    if place > len(calibrating):
        return np.full(len(scale), np.nan)
    error = np.abs((drawn - difference)[:, calibrating].sum(0))
    with np.errstate(divide="ignore"):
        ratio = np.divide(error, scale[calibrating], out=np.zeros_like(error), where=error > 0)
    quantile = np.sort(ratio)[place - 1]
    return quantile * scale if np.isfinite(quantile) else np.full(len(scale), np.nan)


def _scale(drawn: np.ndarray, size: np.ndarray, sample: Sample) -> np.ndarray:
    """float64 (F,): the scatter of each neuron's sum of draws.

    The mean of two variances: the unbiased one, of few draws, and that of differences in proportion to |Δ¹|.
    """
    left = 1 - sample.probability
    unbiased = (left * drawn**2).sum(0)
    in_proportion = (left / sample.probability * size**2).sum(0)
    total = in_proportion.sum()
    factor = unbiased.sum() / total if total > 0 else 0.0
    return np.sqrt((unbiased + factor * in_proportion) / 2)
