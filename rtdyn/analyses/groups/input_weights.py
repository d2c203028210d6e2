"""Heavy tails of the input weights of the final layer and of its groups (METHODS §8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.fixed_aspect import HILL_RULES, Alphas, fixed_aspect_hill, fixed_aspect_weightwatcher
from rtdyn.analyses.groups.group_spectra import LARGEST_SPECTRUM, GroupSpectrum, group_spectra
from rtdyn.analyses.groups.heavytail import (
    LEAST_KS,
    MIN_K,
    RULES,
    TENTH,
    Spectra,
    hill_of_spectra,
    reasons,
    spectra,
    standard_rows,
    undefined,
)
from rtdyn.analyses.groups.hill_over_k import HillOverK, group_hill_over_k, layer_hill_over_k
from rtdyn.analyses.groups.measure import HIGH, LOW, GroupValues, measure_if_defined, too_large
from rtdyn.analyses.groups.sequential import FIRST
from rtdyn.analyses.groups.weightwatcher import WEIGHTWATCHER_METRICS, weightwatcher_metrics
from rtdyn.undefined import Undefined

OUTPUT = "out"
"""What the matrix of output rows is called beside the input matrices."""

MetricValues = Mapping[str, float | Undefined]
"""By metric of WEIGHTWATCHER_METRICS."""


@dataclass(frozen=True)
class LayerAlpha:
    """Hill's α of all input rows of one matrix, with its 95 % interval."""

    alpha: float
    low: float | None
    """None, as `high`, by the rule `least-ks`."""
    high: float | None
    n: int
    """Rows."""


@dataclass(frozen=True)
class LayerTails:
    """The layer's whole matrices; they need no text, and a layer has no null."""

    hill: Mapping[str, Mapping[str, LayerAlpha | Undefined]]
    """By input matrix and rule."""
    weightwatcher: Mapping[str, MetricValues]
    """By matrix: the input matrices and OUTPUT."""
    over_k: Sequence[HillOverK]
    fixed_aspect: FixedAspect


@dataclass(frozen=True)
class FixedAspect:
    """Exponents of square submatrices, which matrices of any shape may be compared by."""

    hill: Mapping[str, Alphas]
    """By input matrix."""
    weightwatcher: Mapping[str, float | Undefined]
    """By matrix: weightwatcher's alpha."""


@dataclass(frozen=True)
class HeavyTails:
    """What `heavytail` finds; matrices are the input matrices by name."""

    hill: Mapping[str, GroupValues]
    """By matrix, then Hill's α by group and rule."""
    layer: LayerTails
    weightwatcher: Mapping[str, Mapping[str, MetricValues]]
    """By matrix and group: means of both halves' choices."""
    spectra: Sequence[GroupSpectrum]
    over_k: Sequence[HillOverK]
    """Of groups."""
    fixed_aspect: Mapping[str, FixedAspect]
    """By group: means of both halves' choices, of the input matrices."""


def heavytail(context: Context) -> HeavyTails:
    """Hill's α of each group's input weights, and weightwatcher's numbers for the layer's and the groups' matrices."""
    inputs, groups = context.captured.anatomy.input_rows, context.groups
    spectra_of = {matrix: spectra_once(weights, groups) for matrix, weights in inputs.items()}
    return HeavyTails(
        {matrix: hill_of_groups(spectra_of[matrix], groups) for matrix in inputs},
        layer_tails(inputs, context.captured.anatomy.output_rows),
        {
            matrix: {name: _weightwatcher_of_group(weights, group) for name, group in groups.items()}
            for matrix, weights in inputs.items()
        },
        group_spectra(spectra_of, groups),
        group_hill_over_k(spectra_of, groups),
        {name: _fixed_aspect_of_group(inputs, group) for name, group in groups.items()},
    )


def spectra_once(weights: Tensor, groups: Mapping[str, Group | Undefined]) -> Callable[[np.ndarray], Spectra]:
    """What gives the spectra of sets (s, n) of rows of weights (F, d), computing that of each set once.

    groups: those that will be asked for.
    """
    sizes = [
        len(chosen)
        for group in groups.values()
        if not isinstance(group, Undefined)
        for chosen in group.members
        if too_large(chosen, LARGEST_SPECTRUM) is None
    ]
    rows = standard_rows(weights, FIRST * sum(n**2 for n in sizes))
    known: dict[bytes, tuple[np.ndarray, int]] = {}

    def spectra_of(sets: np.ndarray) -> Spectra:
        keys = [members.tobytes() for members in sets]
        new = {key: members for key, members in zip(keys, sets, strict=True) if key not in known}
        if new:
            found = spectra(rows, np.stack(list(new.values())))
            known.update(zip(new, zip(found.eigenvalues, found.live, strict=True), strict=True))
        values, live = zip(*(known[key] for key in keys), strict=True)
        return Spectra(np.stack(values), np.array(live))

    return spectra_of


def hill_of_groups(spectra_of: Callable[[np.ndarray], Spectra], groups: Mapping[str, Group | Undefined]) -> GroupValues:
    """Hill's α by rule of each group's rows, the same whatever half is measured.

    spectra_of: of `spectra_once`, from sets (s, n).
    """

    def statistic(_half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        of_sets = spectra_of(sets)
        values: dict[str, np.ndarray] = {}
        for rule in RULES:
            hill = hill_of_spectra(of_sets, rule, min_k=_least(rule))
            ends = {} if rule == LEAST_KS else {rule + LOW: hill.low, rule + HIGH: hill.high}
            values |= {rule: hill.alpha, **ends}
        return values

    def reasons_of(_half: int, members: np.ndarray) -> Mapping[str, Undefined | None]:
        large = too_large(members, LARGEST_SPECTRUM)
        if large is not None:
            return dict.fromkeys(RULES, large)
        return {rule: undefined(spectra_of(members[None]), rule, min_k=_least(rule))[0] for rule in RULES}

    return {name: measure_if_defined(group, RULES, statistic, reasons_of) for name, group in groups.items()}


def _least(rule: str) -> int:
    """The shortest tail: the papers' figure has one of three for 32 neurons."""
    return 1 if rule == TENTH else MIN_K


def layer_tails(inputs: Mapping[str, Tensor], output: Tensor) -> LayerTails:
    """Hill's α of all the layer's input rows, and weightwatcher's numbers for its matrices.

    inputs: by name, (F, d). output: (F, d).
    """
    whole = {m: spectra(standard_rows(weights), np.arange(len(weights))[None]) for m, weights in inputs.items()}
    return LayerTails(
        {matrix: _layer_alphas(of_layer) for matrix, of_layer in whole.items()},
        {matrix: _weightwatcher(weights) for matrix, weights in {**inputs, OUTPUT: output}.items()},
        [line for matrix, of_layer in whole.items() for line in layer_hill_over_k(matrix, of_layer)],
        _fixed_aspect(inputs, {OUTPUT: output}),
    )


def _layer_alphas(whole: Spectra) -> dict[str, LayerAlpha | Undefined]:
    """By rule, of the spectrum of all rows."""
    alphas: dict[str, LayerAlpha | Undefined] = {}
    for rule in RULES:
        hill = hill_of_spectra(whole, rule)
        why = reasons(whole, hill, rule)[0]
        low, high = (None, None) if rule == LEAST_KS else (float(hill.low[0]), float(hill.high[0]))
        alpha = LayerAlpha(float(hill.alpha[0]), low, high, whole.eigenvalues.shape[1])
        alphas[rule] = alpha if why is None else why
    return alphas


def _weightwatcher(matrix: Tensor) -> MetricValues:
    """Of one matrix (a, b)."""
    values = weightwatcher_metrics(matrix)
    return {metric: Undefined(value) if isinstance(value, str) else value for metric, value in values.items()}


def _weightwatcher_of_group(weights: Tensor, group: Group | Undefined) -> MetricValues:
    """The mean over the submatrices that each half chose. weights: (F, d)."""
    if isinstance(group, Undefined):
        return dict.fromkeys(WEIGHTWATCHER_METRICS, group)
    first, second = (_weightwatcher(weights[torch.from_numpy(members)]) for members in group.members)
    return {metric: _mean(first[metric], second[metric]) for metric in first}


def _fixed_aspect(inputs: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> FixedAspect:
    """Of input matrices (n, d), and weightwatcher's alone of others."""
    return FixedAspect(
        {matrix: fixed_aspect_hill(weights) for matrix, weights in inputs.items()},
        {matrix: fixed_aspect_weightwatcher(weights) for matrix, weights in {**inputs, **others}.items()},
    )


def _fixed_aspect_of_group(inputs: Mapping[str, Tensor], group: Group | Undefined) -> FixedAspect:
    """The mean over what each half chose. inputs: (F, d) by matrix."""
    if isinstance(group, Undefined):
        return FixedAspect(dict.fromkeys(inputs, dict.fromkeys(HILL_RULES, group)), dict.fromkeys(inputs, group))
    first, second = (
        _fixed_aspect({matrix: weights[torch.from_numpy(members)] for matrix, weights in inputs.items()}, {})
        for members in group.members
    )
    return FixedAspect(
        {m: {rule: _mean(first.hill[m][rule], second.hill[m][rule]) for rule in HILL_RULES} for m in inputs},
        {m: _mean(first.weightwatcher[m], second.weightwatcher[m]) for m in inputs},
    )


def _mean(first: float | Undefined, second: float | Undefined) -> float | Undefined:
    if isinstance(first, Undefined):
        return first
    return second if isinstance(second, Undefined) else (first + second) / 2
