"""Mediation of groups against sums by hand, and what is stored of it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from support.frozen import COUNTS, exact_confidence, family, influences

from rtdyn.analyses.context import Context
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.measure import GroupValue
from rtdyn.analyses.mediation.confidence import confidence
from rtdyn.analyses.mediation.equal_numbers import equal_numbers
from rtdyn.analyses.mediation.mediation import (
    ENTROPY_CHANGE,
    KL_CHANGE,
    MEDIATION,
    NULL_SPACE_SHARE,
    ThroughFrequency,
    mediation,
)
from rtdyn.analyses.options import StepOptions
from rtdyn.names import PLATEAU, RANDOM, TOP
from rtdyn.tables.mediation import mediation_rows
from rtdyn.text.clusters import TextClusters
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import ClassPositions
from rtdyn.undefined import Undefined

NEURONS = 24
MEMBERS = (np.array([0, 1, 2]), np.array([3, 4]))
OPTIONS = StepOptions(("mediation",), "kept", "mean_abs", 1e-5, 1.0, "never", "cpu", 7)
NOBODY = Undefined("no top neuron on one half of the windows")


def context(plateau: Group | Undefined, counts: np.ndarray = COUNTS) -> Context:
    one = family(1, "layer norm", f=NEURONS)
    pieces = TextClusters(np.arange(2), "blocks")
    evaluation = cast(Evaluation, SimpleNamespace(counts=SimpleNamespace(counts=counts), clusters=pieces))
    groups: dict[str, Group | Undefined] = {PLATEAU: plateau, TOP: NOBODY}
    return Context(one, influences(one), evaluation, np.array([0, 1]), groups, OPTIONS)


def planted_group() -> Group:
    rng = np.random.default_rng(0)
    first, second = (np.stack([rng.choice(NEURONS, len(m), replace=False) for _ in range(29)]) for m in MEMBERS)
    return Group(PLATEAU, MEMBERS, {RANDOM: (first, second)}, 0.1, 0.0)


def test_numbers_of_a_group_are_means_over_both_halves() -> None:
    given = context(planted_group())
    result = mediation(given)
    assert isinstance(result.frequency, ThroughFrequency)
    frozen, rare = result.frequency.frozen["rare"], given.influence.classes["rare"]
    _, _, entropy, kl = exact_confidence(given.captured, COUNTS, list(range(NEURONS)))
    windows = torch.from_numpy(given.captured.positions.window)
    expected: dict[str, list[float]] = {MEDIATION: [], NULL_SPACE_SHARE: [], ENTROPY_CHANGE: [], KL_CHANGE: []}
    for half, members in enumerate(MEMBERS):
        left, total = (sums[1 - half, members].sum() for sums in (frozen.window_abs_sum, rare.window_abs_sum))
        expected[MEDIATION].append(float(1 - left / total))
        expected[NULL_SPACE_SHARE].append(float(result.null_space.squared_share[members].mean()))
        for metric, changes in ((ENTROPY_CHANGE, entropy), (KL_CHANGE, kl)):
            expected[metric].append(float(changes[windows == 1 - half][:, members].mean()))
    for metric, values in expected.items():
        value = result.groups[metric][PLATEAU]
        assert isinstance(value, GroupValue) and value.n == 2 and set(value.nulls) == {RANDOM}
        assert value.value == pytest.approx(np.mean(values), abs=1e-6)
        assert result.groups[metric][TOP] == NOBODY


def test_rows_say_what_is_missing_and_columns_leave_out_neurons_that_were_not_pooled() -> None:
    given = context(planted_group())
    stored = mediation_rows(mediation(given), given)
    named = {(row.metric, row.group): row for row in stored.metrics}
    for metric in (MEDIATION, NULL_SPACE_SHARE, ENTROPY_CHANGE, KL_CHANGE):
        assert named[metric, TOP].value is None and named[metric, TOP].reason == NOBODY.reason
        assert named[metric, PLATEAU].null == RANDOM and named[metric, PLATEAU].p_value is not None
    entropy = named["entropy", None]
    assert entropy.value is not None and entropy.ci_low is not None and entropy.ci_low < entropy.value
    assert entropy.clusters == 2
    assert named["null_space_directions", None].value == 1
    assert len(stored.columns["mediation_rare"]) == NEURONS and np.isfinite(stored.columns["mediation_rare"]).all()
    # the group's five members and twice as many others
    changed = np.isfinite(stored.columns["entropy_change_rare"])
    assert changed.sum() == 15 and changed[:5].all()


def test_equal_counts_and_no_groups_leave_reasons() -> None:
    given = context(NOBODY, np.full(30, 4))
    result = mediation(given)
    same = Undefined("all counted types are equally frequent")
    assert result.frequency == same and isinstance(result.confidence, Undefined)
    assert result.groups[MEDIATION] == {PLATEAU: same, TOP: same}
    assert result.groups[KL_CHANGE] == result.groups[NULL_SPACE_SHARE] == {PLATEAU: NOBODY, TOP: NOBODY}
    stored = mediation_rows(result, given)
    assert set(stored.columns) == {NULL_SPACE_SHARE}
    assert [row.reason for row in stored.metrics if row.metric == MEDIATION] == [same.reason] * 2


def test_confidence_is_measured_at_as_many_positions_of_every_class_as_of_rare() -> None:
    one = family(1, "layer norm", f=NEURONS)
    flat = one.positions.flat
    few, many, two = flat[::4], np.setdiff1d(flat, flat[::4]), flat[1:3]
    classes = tuple(ClassPositions(*c) for c in (("rare", 9, few), ("common", 99, many), ("some", 2, two)))
    fewer = equal_numbers(replace(one, positions=replace(one.positions, classes=classes)))
    rare, common, some = (c.measured for c in fewer.positions.classes)
    assert np.array_equal(rare, few) and np.array_equal(some, two) and len(common) == len(few) < len(many)
    # spread over all of the class's text
    places = np.searchsorted(many, common)
    assert np.array_equal(many[places], common) and np.ptp(np.diff(places)) <= 1
    assert places[0] == 0 and places[-1] + np.diff(places).max() >= len(many) - 1
    rows = np.searchsorted(flat, fewer.positions.flat)
    assert np.array_equal(fewer.positions.flat, np.unique(np.concatenate([rare, common, some])))
    assert torch.equal(fewer.residual, one.residual[rows]) and torch.equal(fewer.activations, one.activations[rows])
    for name in ("window", "query", "target"):
        assert np.array_equal(getattr(fewer.positions, name), getattr(one.positions, name)[rows])
    assert confidence(fewer, COUNTS, np.arange(4)).classes["common"].n == len(few)
