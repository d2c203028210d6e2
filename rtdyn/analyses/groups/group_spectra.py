"""Eigenvalues of groups' input weights beside those of sets selected alike, to be looked at as lines (METHODS §8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.heavytail import HALF, Spectra, hill_of_spectra
from rtdyn.analyses.groups.sequential import FIRST
from rtdyn.intervals import QUANTILES_95
from rtdyn.names import PLATEAU, SELECTED, TOP
from rtdyn.undefined import Undefined

SPECTRUM_GROUPS = (PLATEAU, TOP)
BAND_DRAWS = FIRST
"""Selected sets whose spectra make a band."""
LARGEST_SPECTRUM = 1024
"""Neurons of a group whose weights' eigenvalues are computed, hundreds of times for its nulls."""


@dataclass(frozen=True)
class GroupSpectrum:
    """Eigenvalues of the input weights of what one half of the windows chose; float64 (n,), descending."""

    matrix: str
    group: str
    half: int
    eigenvalues: np.ndarray
    low: np.ndarray
    """Low and high hold 95 % of selected sets at each rank."""
    high: np.ndarray
    fit: np.ndarray
    """The Pareto tail λ_{k+1}·((k + 1)/x)^{1/α} at rank x, with Hill's α of the rule `half`; NaN beyond it."""


def group_spectra(
    inputs: Mapping[str, Callable[[np.ndarray], Spectra]], groups: Mapping[str, Group | Undefined]
) -> list[GroupSpectrum]:
    """Of SPECTRUM_GROUPS, where they and selected sets exist and are not too large.

    inputs: by name of the matrix, what gives the spectra of sets (s, n) of its rows.
    """
    return [
        GroupSpectrum(matrix, name, half, *_lines(spectra_of, members, selected))
        for matrix, spectra_of in inputs.items()
        for name, half, members, selected in chosen_and_selected(groups)
    ]


def chosen_and_selected(
    groups: Mapping[str, Group | Undefined],
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Of SPECTRUM_GROUPS that are not too large: name, half, members (n,) and the band's selected sets (s, n)."""
    for name in SPECTRUM_GROUPS:
        group = groups[name]
        if isinstance(group, Undefined):
            continue
        selected = group.sets[SELECTED]
        for half, members in enumerate(group.members):
            if len(members) <= LARGEST_SPECTRUM and not isinstance(selected, Undefined):
                yield name, half, members, selected[half][:BAND_DRAWS]


def _lines(
    spectra_of: Callable[[np.ndarray], Spectra], members: np.ndarray, selected: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, low, high and fit, (n,) each. members: (n,); selected: (s, n)."""
    of_group = spectra_of(members[None])
    low, high = np.quantile(spectra_of(selected).eigenvalues, QUANTILES_95, axis=0)
    values, rank = of_group.eigenvalues[0], np.arange(1, len(members) + 1)
    hill = hill_of_spectra(of_group, HALF)
    fit, k = np.full(len(values), np.nan), int(hill.k[0])
    if np.isfinite(hill.alpha[0]):
        fit[: k + 1] = values[k] * ((k + 1) / rank[: k + 1]) ** (1 / hill.alpha[0])
    return values, low, high, fit
