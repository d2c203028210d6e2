"""The comparison that `check_cuda.py` judges by finds what differs, and nothing else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rtdyn.analyses.influence.ablation import ClassInfluence, Influence
from rtdyn.analyses.mediation.frozen import AbsInfluence, FrozenInfluence, MediatedShare
from rtdyn.analyses.mediation.mediation import (
    ENTROPY_CHANGE,
    KL_CHANGE,
    MEDIATION,
    NULL_SPACE_SHARE,
    Mediation,
    ThroughFrequency,
)
from rtdyn.analyses.mediation.null_space import NullSpace
from rtdyn.capture.collect import NeuronMoments
from rtdyn.store.schema import Metric
from rtdyn.undefined import Undefined

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "benchmarks"))

from compare_numbers import Tolerance, different, different_rows
from device_checks import FITS, captures_apart, influences_apart, mediations_apart, rows_apart, whole_steps_apart

CLOSE = Tolerance(1e-3)
NEURONS = 4
BOUND = 1e-5
"""Nats; of every neuron's influence."""


def test_equal_results_do_not_differ() -> None:
    result = {"a": torch.arange(3.0), "b": [np.array([1.0, np.nan]), "no value", None], "c": Undefined("no value")}
    assert different("x", result, result, CLOSE) == []


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ([1.0, 100.0], [1.2, 100.0]),
        ([1.0, np.nan], [1.0, 2.0]),
        ([1.0, np.inf], [1.0, -np.inf]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_numbers_apart_are_found(here: list[float], there: list[float]) -> None:
    assert len(different("x", np.array(here), np.array(there), CLOSE)) == 1


def test_what_is_allowed_holds_for_each_number() -> None:
    here, there = np.array([1.0, 2.0]), np.array([1.1, 2.1])
    [found] = different("x", here, there, CLOSE, np.array([0.2, 0.05]))
    assert found.name == "x[1]"


@pytest.mark.parametrize(("there", "apart"), [(4.9, False), (5.1, True), (0.21, False), (0.19, True), (-1.0, True)])
def test_a_factor_counts_both_ways_and_between_equal_signs(there: float, apart: bool) -> None:
    assert bool(different("x", np.array([1.0]), np.array([there]), Tolerance(0, factor=5.0))) == apart


def test_rows_are_compared_by_what_they_are_of() -> None:
    row = Metric("a", "m", 1.0, group="top", p_value=0.05)
    tolerance = {"*": CLOSE, "p_value": Tolerance(0, 0.02)}
    assert different_rows([row], [Metric("a", "m", 1.0005, group="top", p_value=0.06)], tolerance) == []
    [value] = different_rows([row], [Metric("a", "m", 1.1, group="top", p_value=0.05)], tolerance)
    assert value.name == "a/m/top: value"
    assert len(different_rows([row], [Metric("a", "m", 1.0, group="boost", p_value=0.05)], tolerance)) == 2
    [lost] = different_rows([row], [Metric("a", "m", None, group="top", p_value=0.05)], tolerance)
    assert lost.allowed == "in both"


@pytest.mark.parametrize(
    ("metric", "here", "there", "apart"),
    [
        # as a CPU and an H200 gave them
        ("truncated_over_lognormal", -7.897279625802099, -7.973829197609351, False),
        ("refined_share", 0.06357099425117925, 0.05071445681014151, False),
        ("error_bound_max", 2e-6, 9e-6, False),
        # what none of the devices may do
        ("truncated_over_lognormal", -7.897, -8.1, True),
        ("refined_share", 0.0636, 0.4, True),
        ("error_bound_max", 2e-6, 1.1e-5, True),
        ("influence_mean", 0.1, 0.101, True),
    ],
)
def test_rows_have_the_tolerance_of_their_kind(metric: str, here: float, there: float, apart: bool) -> None:
    rows = [[Metric("ablation", metric, value)] for value in (here, there)]
    assert bool(rows_apart(rows[0], rows[1], FITS)) == apart
    whole = [[{**vars(row[0])}] for row in rows]
    assert bool(whole_steps_apart(whole[0], whole[1])) == apart


@pytest.mark.parametrize(("moved", "apart"), [(1, False), (3, False), (4, True), (130, True)])
def test_a_share_of_positions_may_move_by_a_few_positions(moved: int, apart: bool) -> None:
    n = 13068
    zeros = torch.zeros(NEURONS, dtype=torch.float64)

    def captured(positive: int) -> Any:
        moments = NeuronMoments(n, zeros, zeros, zeros, zeros, torch.tensor([positive / n, 0.5]))
        arrays = dict.fromkeys(("residual", "activations", "loss", "attention", "stream", "heads", "first_heads"))
        return SimpleNamespace(moments=moments, **arrays)

    found, _ = captures_apart(captured(2454), captured(2454 + moved))
    assert [one.name for one in found] == (["capture.moments.positive[0]"] if apart else [])


def influences() -> Influence:
    """Of one class with two windows."""
    mean = torch.tensor([0.2, 0.01, 0.004, 0.001], dtype=torch.float64)
    windows, deciles = mean.repeat(2, 1) * 10, mean.repeat(1, 1) * 20
    counts, whole = torch.tensor([10, 10]), torch.tensor([20])
    bound = torch.full_like(mean, BOUND)
    ids, sums = torch.arange(2), (windows, windows)
    rare = ClassInfluence(
        20, mean, mean / 10, mean, mean / 10, bound, 2, ids, ids, counts, *sums, whole, deciles, deciles
    )
    return Influence({"rare": rare}, None, 0.05)


@pytest.mark.parametrize("neuron", range(NEURONS))
def test_one_per_cent_of_an_influence_is_found_and_a_move_within_its_bounds_is_not(neuron: int) -> None:
    here = influences()

    def by(change: float) -> list[str]:
        moved = here.classes["rare"].mean_abs.clone()
        moved[neuron] += change
        there = Influence({"rare": replace(here.classes["rare"], mean_abs=moved)}, None, 0.05)
        return [one.name for one in influences_apart(here, there, 0.0)[0]]

    assert by(1.9 * BOUND) == []
    assert by(0.01 * float(here.classes["rare"].mean_abs[neuron])) == (
        # of 1e-3 nats, 1 % lies within what two certified numbers may be apart
        [f"influence.rare.mean_abs[{neuron}]"] if neuron < 3 else []
    )


def mediated(share: float, bound: float, frozen: float = 0.1) -> Mediation:
    """Of one neuron with an influence of 0.2 nats, and of one whose share is undefined."""

    def column(value: float, other: float = torch.nan) -> torch.Tensor:
        return torch.tensor([value, other], dtype=torch.float64)

    window = torch.zeros(1, dtype=torch.int64)
    whole = AbsInfluence(column(0.2), column(1e-5), window, column(0.2)[None])
    of_class = FrozenInfluence(column(frozen, 0.0), column(0.2 * bound, 1e-5), window, column(frozen, 0.0)[None], whole)
    shares = MediatedShare(column(share), column(0.1), column(bound), (None, "mean |Δ| is within its error bound"))
    through = ThroughFrequency({"rare": of_class}, {"rare": shares})
    groups: Any = {metric: {} for metric in (MEDIATION, NULL_SPACE_SHARE, ENTROPY_CHANGE, KL_CHANGE)}
    return Mediation(through, NullSpace(1, torch.zeros(2), (None, None)), Undefined("not asked for"), groups)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        # the bounds that a CPU and an H200 gave
        (mediated(0.5, 0.002838230880756296), []),
        # one may be far below the other where both keep to 1 % of the influence
        (mediated(0.5, 0.0008), []),
        (mediated(0.5, 0.06), ["error_bound_mean_abs_frozen_rare[0]", "error_bound_mediation_rare[0]"]),
        # a bound is one: 0.0106 and 0.0028 together
        (mediated(0.513, 0.002838230880756296), []),
        (mediated(0.514, 0.002838230880756296), ["mediation_rare[0]"]),
        (mediated(0.5, 0.002838230880756296, frozen=0.103), ["mean_abs_frozen_rare[0]"]),
        (mediated(torch.nan, 0.01), ["mediation_rare"]),
    ],
)
def test_bounds_of_mediation_are_compared_by_a_factor_and_as_bounds(there: Mediation, found: list[str]) -> None:
    of_two = replace(influences().classes["rare"], mean_abs=torch.tensor([0.2, 1e-6]), error_bound=torch.zeros(2))
    context: Any = SimpleNamespace(layer=2, influence=Influence({"rare": of_two}, None, 0.05))
    differences, _ = mediations_apart(context, mediated(0.5, 0.010592485034584874), there)
    assert sorted(one.name for one in differences) == [f"mediation.{name}" for name in found]
