"""Hill's α of input weights over the length k of the tail, to be looked at as a line (METHODS §11).

An α that depends on k is none of a Pareto tail. Where the line is not level over its band, no single k stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.group_spectra import chosen_and_selected
from rtdyn.analyses.groups.heavytail import Spectra, hill_at, pareto_interval
from rtdyn.intervals import QUANTILES_95
from rtdyn.undefined import Undefined

SHORTEST, LONGEST = 20, 5
"""One of so many of the rows that vary is in the shortest tail, and in the longest."""
LEAST_K = 2
POINTS = 64
"""Most lengths, evenly spaced in their logarithm."""


@dataclass(frozen=True)
class HillOverK:
    """α of one matrix' rows at m lengths of the tail; float64 (m,), NaN where it is undefined."""

    matrix: str
    group: str | None
    """None: the whole layer."""
    half: int | None
    """Of the windows, which chose the group."""
    k: np.ndarray
    """int64 (m,), ascending."""
    alpha: np.ndarray
    low: np.ndarray
    """Low and high are the ends of α's 95 % interval at each k, exact for a Pareto tail."""
    high: np.ndarray
    selected: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    """Mean, low and high, (m,) each, that hold 95 % of selected sets at each k; None of the layer."""


def lengths(live: int) -> np.ndarray:
    """int64 (m,): lengths k of the tail from 5 to 20 % of so many rows; none where there are under three."""
    least, most = max(LEAST_K, -(-live // SHORTEST)), live // LONGEST
    if most < least + 2:
        return np.zeros(0, dtype=np.int64)
    if most < least + POINTS:
        return np.arange(least, most + 1)
    return np.unique(np.geomspace(least, most, POINTS).round().astype(np.int64))


def layer_hill_over_k(matrix: str, of_layer: Spectra) -> list[HillOverK]:
    """Of all rows of one matrix, whose spectrum this is; empty where they are too few."""
    k = lengths(int(of_layer.live[0]))
    if len(k) == 0:
        return []
    alpha = _alphas(of_layer, k)[0]
    return [HillOverK(matrix, None, None, k, alpha, *pareto_interval(alpha, k), None)]


def group_hill_over_k(
    inputs: Mapping[str, Callable[[np.ndarray], Spectra]], groups: Mapping[str, Group | Undefined]
) -> list[HillOverK]:
    """Of SPECTRUM_GROUPS, where they and selected sets exist and are neither too large nor too small.

    inputs: by name of the matrix, what gives the spectra of sets (s, n) of its rows.
    """
    result = []
    for matrix, spectra_of in inputs.items():
        for name, half, members, selected in chosen_and_selected(groups):
            of_group = spectra_of(members[None])
            k = lengths(int(of_group.live[0]))
            if len(k):
                alpha, drawn = _alphas(of_group, k)[0], _alphas(spectra_of(selected), k)
                beside = (drawn.mean(0), *np.quantile(drawn, QUANTILES_95, axis=0))
                result.append(HillOverK(matrix, name, half, k, alpha, *pareto_interval(alpha, k), beside))
    return result


def _alphas(of_sets: Spectra, k: np.ndarray) -> np.ndarray:
    """float64 (s, m): α of each set at each length, k (m,)."""
    return np.stack([hill_at(of_sets, np.full(len(of_sets.live), length)) for length in k], axis=1)
