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
    split_groups,
    window_halves,
    with_nulls,
)
from rtdyn.analyses.groups.measure import measure
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import Influence, PseudoInfluence, influence
from rtdyn.analyses.regimes.resampled import stable_members
from rtdyn.analyses.statistics import Comparison, clustered_se
from rtdyn.analyses.top import top_size
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import BOOST, MATCHED, PLATEAU, RANDOM, SELECTED, SUPPRESS, TOP
from rtdyn.streams import stream
from rtdyn.undefined import Undefined


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=30))
def test_halves_keep_clusters_whole_and_differ_by_at_most_one_cluster(sizes: list[int]) -> None:
    cluster = np.repeat(np.arange(len(sizes)) + 100, sizes)
    halves = window_halves(cluster)
    assert all(len(np.unique(halves[cluster == k])) == 1 for k in np.unique(cluster))
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


@pytest.mark.parametrize("rank_by", ["mean_abs", "abs_mean"])
def test_a_half_of_clusters_is_that_of_windows_merged_by_hand(
    whole: tuple[Capture, Influence, np.ndarray], rank_by: str
) -> None:
    one, plain, _ = whole
    cluster = np.arange(one.positions.window.max() + 1) // 3
    halves = window_halves(cluster)
    c = influence(one, torch.full((2560,), -1), 1, cluster=cluster).classes["rare"]
    ids, by_window = c.window_ids.numpy(), plain.classes["rare"]
    for half in (0, 1):
        found = half_influence(c, halves, half, rank_by)
        assert isinstance(found, HalfInfluence)
        held = [np.flatnonzero(cluster[ids] == k) for k in np.unique(cluster[ids]) if halves[3 * k] == half]
        sums, abs_sums = (torch.stack([v[w].sum(0) for w in held]) for v in (by_window.window_sum, c.window_abs_sum))
        counts = torch.stack([by_window.window_n[w].sum() for w in held])
        assert found.clusters == len(held) > 5
        mean, se = sums.sum(0) / counts.sum(), clustered_se(sums, counts)
        np.testing.assert_allclose(found.mean, mean, atol=1e-15)
        np.testing.assert_allclose(found.mean_se, se)
        expected = (
            (mean.abs(), se)
            if rank_by == "abs_mean"
            else (abs_sums.sum(0) / counts.sum(), clustered_se(abs_sums, counts))
        )
        np.testing.assert_allclose(found.ranking, expected[0], atol=1e-15)
        np.testing.assert_allclose(found.ranking_se, expected[1])
    alone = half_influence(c, np.where(cluster == cluster[ids[0]], 0, 1), 0, rank_by)
    assert alone == Undefined("half of the text holds 1 independent piece with positions of the class")
    nothing = half_influence(c, np.ones_like(cluster), 0, rank_by)
    assert nothing == Undefined("half of the text holds 0 independent pieces with positions of the class")


@pytest.mark.slow
def test_split_groups_are_chosen_by_clusters_and_their_halves(whole: tuple[Capture, Influence, np.ndarray]) -> None:
    one, result, _ = whole
    cluster = np.arange(one.positions.window.max() + 1) // 2
    halves = torch.from_numpy(window_halves(cluster)[one.positions.window])
    members = torch.rand(20, len(halves), generator=torch.Generator().manual_seed(0)) < 0.3
    by_cluster = influence(
        one, torch.full((2560,), -1), 1, cluster=cluster, pseudo_classes=members, half=halves
    )  # fmt: skip
    groups = split_groups(by_cluster, cluster, matching_cells(one), 0.0, 7, "mean_abs")
    assert list(groups) == list(GROUPS)
    rare = by_cluster.classes["rare"]
    for half in (0, 1):
        own = half_influence(rare, window_halves(cluster), half)
        assert isinstance(own, HalfInfluence)
        ids = rare.window_ids.numpy()
        mine = np.flatnonzero(window_halves(cluster)[ids] == half)
        held = np.unique(cluster[ids[mine]])
        sums = np.stack([rare.window_abs_sum[mine[cluster[ids[mine]] == k]].sum(0) for k in held])
        counts = np.array([float(rare.window_n[mine[cluster[ids[mine]] == k]].sum()) for k in held])
        share = stable_members(sums, counts, own.uncertainty(), stream(7, "resampled text", half))
        assert not isinstance(share, Undefined)
        chosen = choose(own, half_regimes(own), share > 0.5)
        for name, group in groups.items():
            if isinstance(group, Undefined):
                assert not len(chosen[name]) or "half" in group.reason
            else:
                assert group.members[half].tolist() == chosen[name].tolist()
    assert not isinstance(groups[TOP], Undefined)
    one_piece = split_groups(result, np.zeros_like(cluster), matching_cells(one), 0.0, 7, "mean_abs")
    nothing = Undefined("half of the text holds 0 independent pieces with positions of the class")
    assert one_piece == dict.fromkeys(GROUPS, nothing)


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
    assert values["never"].nulls[RANDOM] == Undefined("only 0 sets of the null with a value")


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
