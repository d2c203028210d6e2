"""Heavy tails of a group's input weights (METHODS §8; [DS] eq. 10; [HT]).

The group matrix W̃ holds its n neurons' input rows, each centred and scaled to unit variance over the d inputs.
C = W̃W̃ᵀ/d has eigenvalues λ₁ ≥ … ≥ λ_n and trace n. Hill's estimate of the tail exponent, P(λ > x) ∝ x^−α, is

    α = [(1/k) Σ_{j≤k} ln(λ_j/λ_{k+1})]^{−1},   95 % interval α·χ²_{2k; 0.025, 0.975}/(2k).

The interval is exact for a Pareto tail at a k fixed beforehand. Rows that do not vary leave the group. weightwatcher
stands beside it. Its alpha is the exponent of the density of uncentred squared singular values, so that alpha − 1
compares with α.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rtdyn.analyses.groups.correlations import eigenvalues, fits_gram, gram, standardised
from rtdyn.analyses.kernels.least_ks import least_ks
from rtdyn.counted import counted
from rtdyn.undefined import Undefined

TENTH, HALF, LEAST_KS = "tenth", "half", "least-ks"
RULES = (TENTH, HALF, LEAST_KS)
"""How long the tail is."""
MIN_K = 5
CONFIDENCE = 0.95
EQUAL = 1e-10
"""Logarithms of eigenvalue ratios under this are round-off."""

ALPHA, ALPHA_WEIGHTED, STABLE_RANK, ENTROPY = "alpha", "alpha_weighted", "stable_rank", "entropy"
"""weightwatcher's metrics."""


@dataclass(frozen=True)
class Spectra:
    """Eigenvalues of the group matrices of sets of neurons."""

    eigenvalues: np.ndarray
    """float64 (s, n), descending; those that are 0 but for round-off are exactly 0."""
    live: np.ndarray
    """int64 (s,): rows that vary, the n of k = ⌊f·n⌋."""


@dataclass(frozen=True)
class Hill:
    """Hill's α of each set, NaN where `undefined` gives a reason."""

    alpha: np.ndarray
    """float64 (s,): lower is heavier."""
    k: np.ndarray
    """int64 (s,): eigenvalues in the tail; 0 where no k is allowed."""
    low: np.ndarray
    """float64 (s,): 95 % interval, exact for a Pareto tail; NaN with `least-ks`. That looks for its k among the same
    eigenvalues (arXiv:1811.06433), and so is descriptive: it has none."""
    high: np.ndarray


@dataclass(frozen=True)
class StandardRows:
    """Input rows W̃ of all F neurons, each of mean 0 and variance 1."""

    z: Tensor
    """float64 (d, F), 0 for rows that do not vary."""
    live: np.ndarray
    """bool (F,): rows that vary."""
    gram: Tensor | None = None
    """float64 (F, F): W̃W̃ᵀ/d, where many sets are asked for."""


def standard_rows(rows: Tensor, squares: int = 0) -> StandardRows:
    """The rows (F, d), with the product of every two where that is cheaper and fits.

    squares: Σ n² over the sets of n neurons whose spectra will be asked for.
    """
    z, live = standardised(rows.T)
    whole = squares >= len(rows) ** 2 and fits_gram(len(rows))
    return StandardRows(z, live, gram(z) if whole else None)


def spectra(rows: StandardRows, sets: np.ndarray) -> Spectra:
    """Eigenvalues of C for each set of sets (s, n), int64, distinct within a set."""
    values = eigenvalues(rows.z, sets, whole=rows.gram)
    zero = max(sets.shape[1], len(rows.z)) * np.finfo(np.float64).eps * values.max(axis=1, initial=0, keepdims=True)
    return Spectra(np.where(values > zero, values, 0.0), rows.live[sets].sum(1))


def hill_of_spectra(spectra: Spectra, rule: str = TENTH, *, min_k: int = MIN_K) -> Hill:
    """Hill's α of each set.

    rule: `tenth` or `half`, k = max(1, ⌊n·f⌋) of the rows that vary; or `least-ks`. That is the k ≥ min_k at which the
    k largest eigenvalues are nearest their fitted Pareto distribution, by the Kolmogorov–Smirnov distance.
    min_k: NaN under it; 1 gives the papers' figure. Raises ValueError for another rule.
    """
    k = _least_ks(_logs(spectra), min_k) if rule == LEAST_KS else _fixed_k(spectra.live, rule)
    alpha = np.where(k >= min_k, hill_at(spectra, k), np.nan)
    if rule == LEAST_KS:
        return Hill(alpha, k, *np.full((2, len(k)), np.nan))
    return Hill(alpha, k, *pareto_interval(alpha, k))


def hill_at(spectra: Spectra, k: np.ndarray) -> np.ndarray:
    """float64 (s,): Hill's α of each set with k (s,) eigenvalues in its tail, NaN where that is undefined."""
    inverse = _mean_log_excess(_logs(spectra), k)
    return np.divide(1.0, inverse, out=np.full(len(k), np.nan), where=(k > 0) & (inverse > EQUAL))


def pareto_interval(alpha: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals (s,), (s,) of Hill's α (s,) at fixed lengths k (s,) of the tail, exact where it is Pareto's."""
    from scipy.stats import chi2

    tail, degrees = (1 - CONFIDENCE) / 2, 2 * np.maximum(k, 1)
    low, high = (alpha * chi2.ppf(q, degrees) / degrees for q in (tail, 1 - tail))
    return low, high


def _logs(spectra: Spectra) -> np.ndarray:
    """(s, n): logarithms of the eigenvalues, NaN for 0."""
    return np.log(np.where(spectra.eigenvalues > 0, spectra.eigenvalues, np.nan))


def undefined(spectra: Spectra, rule: str = TENTH, *, min_k: int = MIN_K) -> list[Undefined | None]:
    """Why each of s sets has no α, or None where it has one."""
    return reasons(spectra, hill_of_spectra(spectra, rule, min_k=min_k), rule, min_k=min_k)


def reasons(spectra: Spectra, hill: Hill, rule: str, *, min_k: int = MIN_K) -> list[Undefined | None]:
    """Why each of s sets has no α in its Hill by this rule, or None where it has one."""
    return [
        None if np.isfinite(alpha) else _reason(values, int(live), int(k), rule, min_k)
        for alpha, values, live, k in zip(hill.alpha, spectra.eigenvalues, spectra.live, hill.k, strict=True)
    ]


def _reason(values: np.ndarray, live: int, k: int, rule: str, min_k: int) -> Undefined:
    """Why a set with eigenvalues (n,) has no α."""
    positive = int((values > 0).sum())
    if rule != LEAST_KS and k < min_k:
        return Undefined(f"a tail of {counted(k, 'eigenvalue')} of {counted(live, 'neuron')}, under {min_k}")
    least = max(1, min_k) if rule == LEAST_KS else k
    if positive <= least:
        return Undefined(
            f"{counted(positive, 'eigenvalue')} above 0, under the {least + 1} that a tail of {least} needs"
        )
    return Undefined("the largest eigenvalues are equal")


def _fixed_k(live: np.ndarray, rule: str) -> np.ndarray:
    """int64 (s,): max(1, ⌊n·f⌋) of the rows that vary, live (s,)."""
    parts = {TENTH: 10, HALF: 2}
    if rule not in parts:
        raise ValueError(f"no rule {rule!r} for the tail, only {', '.join(RULES)}")
    return np.where(live > 0, np.maximum(1, live // parts[rule]), 0)


def _mean_log_excess(logs: np.ndarray, k: np.ndarray) -> np.ndarray:
    """(1/k) Σ_{j≤k} ln(λ_j/λ_{k+1}), NaN where λ_{k+1} is not there. logs: (s, n) descending, NaN for ln 0. k: (s,)."""
    padded = np.pad(logs, ((0, 0), (0, 1)), constant_values=np.nan)
    base = np.take_along_axis(padded, np.minimum(k, logs.shape[1])[:, None], axis=1)
    inside = np.arange(logs.shape[1]) < k[:, None]
    return np.where(inside, logs - base, 0).sum(1) / np.maximum(k, 1)


def _least_ks(logs: np.ndarray, min_k: int) -> np.ndarray:
    """int64 (s,): the k of least distance, the larger of equals; 0 where none is allowed. logs: (s, n) descending."""
    positive = np.isfinite(logs).sum(1)
    found = [least_ks(row[:n], max(1, min_k), EQUAL, 0, 0.0) for row, n in zip(logs, positive, strict=True)]
    return np.array(found, dtype=np.int64)
