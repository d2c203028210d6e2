"""Groups chosen on one half of the windows, measured on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.choose import (
    GROUPS,
    HalfInfluence,
    choose,
    half_influence,
    half_regimes,
    window_halves,
    with_nulls,
)
from rtdyn.analyses.groups.measure import measure
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import Influence, PseudoInfluence, influence
from rtdyn.analyses.statistics import Comparison
from rtdyn.analyses.top import top_size
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import BOOST, MATCHED, PLATEAU, RANDOM, SELECTED, SUPPRESS, TOP
from rtdyn.undefined import Undefined


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=30))
def test_halves_keep_documents_whole_and_differ_by_at_most_one_document(sizes: list[int]) -> None:
    documents = np.repeat(np.arange(len(sizes)) + 100, sizes)
    halves = window_halves(documents)
    assert all(len(np.unique(halves[documents == d])) == 1 for d in np.unique(documents))
    counts = np.bincount(halves, minlength=2)
    assert abs(counts[0] - counts[1]) <= max(sizes)


@pytest.fixture(scope="module")
def whole(captured: Callable[[int], Capture]) -> tuple[Capture, Influence, np.ndarray]:
    one = captured(4000)
    halves = window_halves(np.arange(one.positions.window.max() + 1))
    rng = np.random.default_rng(0)
    common = np.flatnonzero(one.positions.members("common"))
    pseudo = torch.zeros(20, len(one.residual), dtype=torch.bool)
    for row in pseudo:
        row[rng.choice(common, 40, replace=False)] = True
    half = torch.from_numpy(halves[one.positions.window])
    result = influence(one, torch.full((2560,), -1), 1, pseudo_classes=pseudo, half=half)
    direct = influence(one, torch.full((2560,), -1), 1)
    assert result.pseudo is not None and direct.pseudo is None
    for name, c in direct.classes.items():
        assert torch.equal(c.window_abs_sum, result.classes[name].window_abs_sum)
    return one, result, halves


@pytest.mark.slow
def test_the_halves_add_up_to_the_whole(whole: tuple[Capture, Influence, np.ndarray]) -> None:
    _, result, halves = whole
    c = result.classes["rare"]
    n = np.array([c.window_n.numpy()[halves[c.window_ids.numpy()] == h].sum() for h in (0, 1)])
    parts = [half_influence(c, halves, h) for h in (0, 1)]
    assert all(isinstance(p, HalfInfluence) for p in parts)
    total = sum(k * p.ranking for k, p in zip(n, parts, strict=True) if isinstance(p, HalfInfluence))
    np.testing.assert_allclose(total / n.sum(), c.mean_abs.numpy())


def test_pseudo_influence_of_both_halves_is_that_of_the_positions(
    whole: tuple[Capture, Influence, np.ndarray],
) -> None:
    one, result, halves = whole
    half = torch.from_numpy(halves[one.positions.window])
    rare = torch.from_numpy(one.positions.members("rare"))
    same = influence(one, torch.full((2560,), -1), 1, pseudo_classes=rare[None], half=half).pseudo
    assert same is not None
    c = result.classes["rare"]
    assert int(same.n.sum()) == c.n
    torch.testing.assert_close(same.abs_sum.sum((0, 1)) / c.n, c.mean_abs)
    torch.testing.assert_close(same.sum.sum((0, 1)) / c.n, c.mean)


def test_groups_are_what_their_rules_say(whole: tuple[Capture, Influence, np.ndarray]) -> None:
    _, result, halves = whole
    own = half_influence(result.classes["rare"], halves, 0)
    assert isinstance(own, HalfInfluence)
    stable = np.zeros(512, dtype=bool)
    stable[[3, 5]] = True
    chosen = choose(own, half_regimes(own), stable)
    assert set(chosen) == set(GROUPS)
    assert chosen[PLATEAU].tolist() == [3, 5]
    assert len(chosen[TOP]) == top_size(512) == 32
    assert own.ranking[chosen[TOP]].min() >= np.delete(own.ranking, chosen[TOP]).max()
    assert (own.mean[chosen[BOOST]] > 0).all() and (own.mean[chosen[SUPPRESS]] < 0).all()
    assert not np.intersect1d(chosen[BOOST], chosen[SUPPRESS]).size


def test_selected_sets_follow_the_groups_own_rule(whole: tuple[Capture, Influence, np.ndarray]) -> None:
    one, result, halves = whole
    own = tuple(half_influence(result.classes["rare"], halves, h) for h in (0, 1))
    regimes = tuple(half_regimes(h) for h in own if isinstance(h, HalfInfluence))
    chosen = [choose(h, r, np.zeros(512, dtype=bool)) for h, r in zip(own, regimes, strict=True)]
    members = (chosen[0][TOP], chosen[1][TOP])
    rng = np.random.default_rng(0)
    group = with_nulls(TOP, members, regimes, result.pseudo, 0.1, matching_cells(one), rng, draws=30)
    assert result.pseudo is not None
    means = (result.pseudo.abs_sum / result.pseudo.n[..., None]).numpy()
    for half in (0, 1):
        sets = group.sets[SELECTED]
        assert not isinstance(sets, Undefined)
        for draw, mine in enumerate(sets[half]):
            assert set(mine) == set(np.argsort(-means[half, draw], kind="stable")[:32])
    assert 0 < group.own_share < 1 and group.overlap == 0.1
    small = (members[0][:1], members[1])
    empty = with_nulls(PLATEAU, small, regimes, None, 0.1, matching_cells(one), rng, draws=30)
    assert empty.sets[SELECTED] == Undefined("there are no pseudo-classes")


def test_each_choice_is_measured_on_the_other_half() -> None:
    seen = []

    def statistic(half: int, sets: np.ndarray) -> Mapping[str, np.ndarray]:
        seen.append((half, sets.shape))
        return {"first": sets[:, 0] + 100.0 * half, "never": np.full(len(sets), np.nan)}

    sets = {RANDOM: (np.arange(40)[:, None], np.arange(40)[:, None]), MATCHED: Undefined("none to be had")}
    group = Group(TOP, (np.array([7]), np.array([9])), sets, 0.0, 0.0)
    values = measure(group, statistic)
    assert seen == [(1, (1, 1)), (0, (1, 1)), (1, (40, 1)), (0, (40, 1))]
    assert values["first"].value == (107 + 9) / 2
    null = values["first"].nulls[RANDOM]
    assert isinstance(null, Comparison) and null.null_mean == pytest.approx(50 + 19.5)
    assert values["first"].nulls[MATCHED] == Undefined("none to be had")
    assert np.isnan(values["never"].value)
    assert values["never"].nulls[RANDOM] == Undefined("only 0 sets of the null have a value")


def test_pseudo_classes_without_positions_in_a_half_give_a_reason(
    whole: tuple[Capture, Influence, np.ndarray],
) -> None:
    one, result, halves = whole
    own = half_influence(result.classes["rare"], halves, 0)
    assert isinstance(own, HalfInfluence) and result.pseudo is not None
    regimes = half_regimes(own)
    p = result.pseudo
    lacking = PseudoInfluence(torch.zeros_like(p.n), p.sum, p.abs_sum)
    members = np.arange(4)
    group = with_nulls(
        TOP,
        (members, members),
        (regimes, regimes),
        lacking,
        0.1,
        matching_cells(one),
        np.random.default_rng(0),
        draws=20,
    )
    assert group.sets[SELECTED] == Undefined("a pseudo-class has no position in half of the windows")


def test_the_selected_null_is_widened_by_what_pseudo_classes_share() -> None:
    sets = {SELECTED: (np.arange(40)[:, None], np.arange(40)[:, None])}
    statistic = {"index": lambda sets: sets[:, 0].astype(float)}

    def p_value(overlap: float) -> Comparison | Undefined:
        group = Group(TOP, (np.array([44]), np.array([44])), sets, 0.0, overlap)
        return measure(group, lambda half, s: {name: f(s) for name, f in statistic.items()})["index"].nulls[SELECTED]

    apart, shared, too_much = p_value(0.0), p_value(0.15), p_value(0.9)
    assert isinstance(apart, Comparison) and isinstance(shared, Comparison)
    assert shared.null_sd == pytest.approx(apart.null_sd * (1.15 / 0.85) ** 0.5)
    assert isinstance(too_much, Undefined)
