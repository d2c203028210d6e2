"""Pseudo-classes: what each draw must have, what it imitates, and the calibration of the contrast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.regimes.contrast import CURVE_STATISTICS, MAX_OVERLAP, contrast, curve_statistics
from rtdyn.analyses.regimes.fit import ThreeSegments, fit_regimes
from rtdyn.analyses.statistics import Comparison
from rtdyn.capture.forward_pass import Capture
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import prepare
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.positions import ClassPositions, MeasuredPositions
from rtdyn.text.pseudo_classes import overlap, pseudo_classes
from rtdyn.undefined import Undefined

LENGTH = 64


def measured(rare: np.ndarray, common: np.ndarray) -> MeasuredPositions:
    """Positions of windows of LENGTH from indices into the flattened windows."""
    flat = np.union1d(rare, common)
    classes = tuple(ClassPositions(n, len(m), np.sort(m)) for n, m in (("rare", rare), ("common", common)))
    return MeasuredPositions(flat, flat // LENGTH, flat % LENGTH, np.zeros_like(flat), classes)


def drawn(rng: np.random.Generator, windows: int, rare: int, common: int) -> MeasuredPositions:
    both = rng.choice(windows * LENGTH, rare + common, replace=False)
    return measured(both[:rare], both[rare:])


def classes_of(positions: MeasuredPositions, draws: int, seed: int = 0, stratum: int = 16) -> np.ndarray:
    result = pseudo_classes(positions, draws, seed, stratum)
    assert isinstance(result, np.ndarray), result
    return result


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), stratum=st.integers(8, LENGTH), windows=st.integers(2, 30))
def test_every_draw_has_the_rare_histogram_and_only_common_positions(seed: int, stratum: int, windows: int) -> None:
    rng = np.random.default_rng(seed)
    positions = drawn(rng, windows, 3 * windows, 20 * windows)
    result = pseudo_classes(positions, 5, seed, stratum)
    rare, common = positions.members("rare"), positions.members("common")
    strata = positions.query // stratum
    needed, available = (np.bincount(strata[m], minlength=LENGTH) for m in (rare, common))
    if (needed > available).any():
        s = int(np.flatnonzero(needed > available)[0])
        assert result == Undefined(
            f"{available[s]} measured common positions at queries {s * stratum} to {(s + 1) * stratum - 1}, "
            f"where the rare class has {needed[s]}"
        )
        return
    assert isinstance(result, np.ndarray) and result.shape == (5, len(positions.flat))
    for row in result:
        assert not (row & ~common).any()
        assert (np.bincount(strata[row], minlength=LENGTH) == needed).all()
    assert (result == pseudo_classes(positions, 5, seed, stratum)).all()


def test_clusters_of_rare_positions_are_imitated() -> None:
    rng = np.random.default_rng(0)
    common = np.flatnonzero(rng.random(40 * LENGTH) < 0.8)
    rest = np.setdiff1d(np.arange(40 * LENGTH), common)
    rare = rest[rest // LENGTH < 3]
    positions = measured(rare, common)
    sizes = sorted(np.bincount(positions.window[positions.members("rare")]).tolist())[-3:]
    hosts = set()
    for row in classes_of(positions, 50):
        counts = np.bincount(positions.window[row], minlength=40)
        assert np.sort(counts)[-3:] == pytest.approx(sizes, abs=2) and counts.sum() == len(rare)
        hosts |= set(np.flatnonzero(counts >= 5))
    assert len(hosts) > 35


@pytest.mark.slow
def test_every_common_position_is_equally_likely_where_all_are_alike() -> None:
    rare = np.arange(8) * LENGTH
    common = (np.arange(8)[:, None] * LENGTH + np.arange(1, 11)).ravel()
    times = classes_of(measured(rare, common), 4000).sum(0)
    times = times[measured(rare, common).members("common")]
    # a window gives one position to each draw
    assert times.reshape(8, 10).sum(1) == pytest.approx(4000)
    assert stats.chisquare(times).pvalue > 0.001


def test_more_rare_windows_than_hosts_and_hosts_that_lack_positions() -> None:
    rare = np.arange(12) * LENGTH
    common = np.concatenate([np.arange(1, 15), 5 * LENGTH + np.arange(1, 3)])
    for row in classes_of(measured(rare, common), 20):
        assert row.sum() == 12
    short = pseudo_classes(measured(rare, common[:11]), 5)
    assert short == Undefined("11 measured common positions at queries 0 to 31, where the rare class has 12")


def test_positions_of_both_classes_are_not_drawn() -> None:
    rare = np.arange(10)
    positions = measured(rare, np.arange(40))
    result = classes_of(positions, 10, stratum=LENGTH)
    assert not result[:, :10].any() and (result.sum(1) == 10).all()


def test_overlap_is_the_mean_over_pairs() -> None:
    members = np.random.default_rng(0).permuted(np.arange(50) < 12, axis=0)[None].repeat(8, axis=0)
    members = np.random.default_rng(1).permuted(members, axis=1)
    pairs = [(members[i] & members[j]).sum() / 12 for i in range(8) for j in range(8) if i != j]
    assert overlap(members) == pytest.approx(np.mean(pairs))
    assert overlap(np.ones((3, 4), dtype=bool)) == 1 and overlap(members[:1]) == 0


def with_targets(rng: np.random.Generator, rare_types: int, common_types: int) -> MeasuredPositions:
    """Each of 16 windows holds five positions of every common type that it has, and each rare type lies in four."""
    kinds = [(k, w) for k in range(rare_types + common_types) for w in rng.choice(16, 4, replace=False)]
    flat, target = [], []
    for window in range(16):
        here = [k for k, w in kinds if w == window for _ in range(1 if k < rare_types else 5)]
        flat += (window * LENGTH * 4 + rng.choice(LENGTH * 4, len(here), replace=False)).tolist()
        target += here
    order = np.argsort(flat)
    position, kind = np.array(flat)[order], np.array(target)[order]
    rare = kind < rare_types
    one = measured(position[rare], position[~rare])
    return replace(one, target=kind)


def test_types_repeat_as_the_rare_ones_do_by_target_or_by_another_token() -> None:
    positions = with_targets(np.random.default_rng(0), 7, 25)
    by_token = pseudo_classes(replace(positions, target=np.zeros_like(positions.target)), 30, 0, LENGTH,
                              token=positions.target)  # fmt: skip
    assert isinstance(by_token, np.ndarray)
    for row in (*classes_of(positions, 30, stratum=LENGTH), *by_token):
        assert np.unique(positions.target[row], return_counts=True)[1].tolist() == [4] * 7
    often = replace(positions, target=np.where(positions.members("rare"), 0, positions.target))
    reason = "too few common types come as often as the rare ones, 28 times and fewer"
    assert pseudo_classes(often, 5) == Undefined(reason)


@pytest.mark.parametrize("class_by", ["target", "query"])
def test_an_evaluations_pseudo_classes_repeat_the_tokens_that_decide_its_classes(
    class_by: str, tiny: SuiteSpec, options: EvaluationOptions
) -> None:
    evaluation = prepare(tiny, 4000, replace(options, class_by=class_by, positions_per_rare=8.0))
    positions, members = evaluation.positions, evaluation.pseudo_classes
    own = evaluation.text.windows[positions.window, positions.query]
    tokens = {"target": positions.target, "query": own}
    assert isinstance(members, np.ndarray)

    def repeats(of: str, rows: np.ndarray) -> list[int]:
        return sorted(np.unique(tokens[of][rows], return_counts=True)[1].tolist())

    rare = positions.members("rare")
    for of in tokens:
        assert (repeats(of, members[0]) == repeats(of, rare)) == (of == class_by)
    assert all(repeats(class_by, row) == repeats(class_by, rare) for row in members)


@pytest.mark.slow
@pytest.mark.parametrize(("types", "rejected"), [(True, (0.0, 0.12)), (False, (0.25, 1.0))])
def test_the_contrast_is_calibrated_where_types_carry_the_effect(types: bool, rejected: tuple[float, float]) -> None:
    """Were pseudo-classes drawn without regard to types, they would take a few types' chance for an effect."""
    rng = np.random.default_rng(3)
    p = []
    for repeat in range(80):
        positions = with_targets(rng, 8, 40)
        values = rng.standard_normal(48)[positions.target] + 0.3 * rng.standard_normal(len(positions.flat))
        blind = positions if types else replace(positions, target=np.zeros_like(positions.target))
        members = classes_of(blind, 59, repeat, LENGTH)
        rare = float(values[positions.members("rare")].mean())
        result = contrast(rare, members @ values / members.sum(1), min(overlap(members), MAX_OVERLAP))
        assert isinstance(result, Comparison)
        p.append(result.p_value)
    assert rejected[0] <= np.mean(np.array(p) <= 0.05) <= rejected[1]


@pytest.mark.slow
@pytest.mark.parametrize("window_effect", [0.0, 1.0])
def test_the_contrast_is_calibrated_where_rare_is_a_draw_of_common(window_effect: float) -> None:
    """KS against uniform at 1 %, and the rare mean scatters about its null by as much as the null says."""
    rng = np.random.default_rng(7)
    p, z = [], []
    for repeat in range(250):
        positions = drawn(rng, 20, 40, 360)
        members = classes_of(positions, 99, repeat, 32)
        window = window_effect * rng.standard_normal(30)
        values = rng.standard_normal(len(positions.flat)) + window[positions.window] + 0.05 * positions.query
        shared = overlap(members)
        assert 0.1 < shared < MAX_OVERLAP == 0.2
        rare = float(values[positions.members("rare")].mean())
        result = contrast(rare, members @ values / members.sum(1), shared)
        assert isinstance(result, Comparison)
        p.append(result.p_value)
        z.append(result.z(rare))
    assert stats.kstest(p, "uniform").statistic < 1.63 / np.sqrt(250)
    # without the widening the variance is about 1.35
    assert 0.75 < np.var(z) < 1.27


def test_the_contrast_finds_a_shift_and_counts_ties_in_both_tails() -> None:
    null = np.random.default_rng(0).standard_normal(199)
    far = contrast(6.0, null, 0.1)
    assert isinstance(far, Comparison) and far.p_value == 0.01
    assert far.null_mean == pytest.approx(null.mean())
    assert far.null_sd == pytest.approx(null.std(ddof=1) * np.sqrt(1.1 / 0.9))
    ties = contrast(5.0, np.array([5.0] * 90 + [7.0] * 9), 0.1)
    assert isinstance(ties, Comparison) and ties.p_value == pytest.approx(1.0)
    same = contrast(5.0, np.full(50, 5.0))
    assert isinstance(same, Comparison) and same.p_value == 1 and same.z(5.0) is None
    missing = contrast(6.0, np.append(null, np.full(30, np.nan)), 0.1)
    assert missing == far


@pytest.mark.parametrize(
    ("rare", "pseudo", "shared", "reason"),
    [
        (np.nan, np.zeros(99), 0.0, "the rare class has no value"),
        (1.0, np.zeros(99), 0.4, "pseudo-classes share 40% of their positions, over 20%"),
        (1.0, np.full(99, np.nan), 0.0, "no pseudo-class has a value"),
        (1.0, np.zeros(9), 0.0, "only 9 sets of the null with a value"),
    ],
)
def test_what_cannot_be_contrasted_says_why(rare: float, pseudo: np.ndarray, shared: float, reason: str) -> None:
    assert contrast(rare, pseudo, shared) == Undefined(reason)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(1e-5, 1e5))
def test_curve_statistics_are_those_of_the_fit_whatever_scale_and_order(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=(3, 200))
    values[1] = 0
    result = curve_statistics(values)
    other = curve_statistics(factor * rng.permuted(values, axis=1))
    assert tuple(result) == CURVE_STATISTICS
    for name in CURVE_STATISTICS:
        assert np.isnan(result[name]).tolist() == [False, True, False]
        assert result[name] == pytest.approx(other[name], abs=1e-4, nan_ok=True)
    regimes = fit_regimes(values[2], np.zeros(200))
    assert isinstance(regimes.fit, ThreeSegments)
    upper, lower = np.percentile(np.log(values[2]), (75, 25))
    expected = {
        "excess": regimes.fit.excess,
        "kappa": regimes.fit.kappa,
        "r1": regimes.fit.r1,
        "plateau_fraction": (regimes.label == "plateau").mean(),
        "shape_statistic": regimes.fit.excess / (upper - lower),
    }
    assert {name: result[name][2] for name in CURVE_STATISTICS} == pytest.approx(expected)


@pytest.mark.parametrize("step", [1, 512, 4000])
def test_real_checkpoints(step: int, captured: Callable[[int], Capture]) -> None:
    """A few of the rare positions against pseudo-classes: sums by the pass over Δ are those of the classes by hand."""
    whole = captured(step)
    rare, common = whole.positions.classes
    assert (rare.name, common.name) == ("rare", "common")
    too_few = pseudo_classes(whole.positions, 5)
    assert isinstance(too_few, Undefined) and "measured common positions at queries" in too_few.reason
    few = replace(rare, measured=rare.measured[:: len(rare.measured) // 10])
    positions = replace(whole.positions, classes=(few, common))
    members = pseudo_classes(positions, 60, seed=1, stratum=64)
    assert isinstance(members, np.ndarray)
    half = torch.zeros(len(positions.flat), dtype=torch.long)
    one = replace(whole, positions=positions)
    result = influence(one, torch.full((2560,), -1), 1, pseudo_classes=torch.from_numpy(members), half=half)
    assert result.pseudo is not None
    values = (result.pseudo.abs_sum.sum(0) / result.pseudo.n.sum(0)[:, None]).numpy()
    null = curve_statistics(values)
    own = curve_statistics(result.classes["rare"].mean_abs.numpy()[None])
    shared = overlap(members)
    assert 0 < shared < MAX_OVERLAP
    for name in CURVE_STATISTICS:
        compared = contrast(float(own[name][0]), null[name], shared)
        assert isinstance(compared, Comparison) and 2 / 61 <= compared.p_value <= 1
        assert np.isfinite(null[name]).all() and compared.null_sd > 0
