"""Emergence, change points and trends: planted answers, nulls, and other implementations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from store.test_run import manifest, record

from rtdyn.analyses.influence.losses import mean_losses
from rtdyn.capture.forward_pass import Capture
from rtdyn.errors import InputError
from rtdyn.judge.change_points import change_points, trend
from rtdyn.judge.emergence import beyond_p, emergence, interval_90
from rtdyn.judge.series import Selection, series
from rtdyn.judge.trajectories import trajectories
from rtdyn.store.run import open_run, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.tables.influence import loss_metrics
from rtdyn.undefined import Undefined

LOG_STEPS = np.array([0, *(2**i for i in range(10)), *range(1000, 4001, 500)])
"""The bundled suite's kind of schedule: 18 steps."""
NO, YES = 0.9, 1e-4


def frame(rows: dict[int, list[Metric]]) -> pl.DataFrame:
    return pl.concat([metric_frame(metrics, step, step * 10) for step, metrics in rows.items()])


# emergence


def test_the_planted_step_is_found_with_its_bracket() -> None:
    p = [NO, NO, YES, NO, YES, YES, YES, YES, YES]
    found = emergence(LOG_STEPS[:9], p)
    # the significant step 2 is no run; step 8 begins one that lasts
    assert (found.step, found.after, found.reason) == (8, 4, "")
    assert found.adjusted[4] == pytest.approx(YES * 9 / 6)


def test_four_fifths_of_the_remaining_steps_have_to_be_significant() -> None:
    steps = np.arange(10)
    assert emergence(steps, [YES] * 8 + [NO] * 2).step == 0
    found = emergence(steps, [YES] * 7 + [NO] * 3)
    assert found.step is None and found.reason.endswith("lasts for 80% of the remaining ones")
    # from step 5 on 4 of 5 are significant, from 4 on 4 of 6
    assert emergence(steps, [NO] * 5 + [YES] * 4 + [NO]).step == 5
    assert emergence(steps, [NO] * 4 + [YES, NO] + [YES] * 3 + [NO]).step is None
    assert (
        emergence(steps, [NO] * 8 + [YES] * 2).reason == "at most 2 significant steps in a row at alpha 0.05, under 3"
    )


def test_an_effect_of_the_first_step_has_no_bracket() -> None:
    found = emergence([5, 6, 7], [YES] * 3)
    assert (found.step, found.after, found.reason) == (5, None, "significant from the first step on")


def test_an_undefined_step_is_no_test_and_not_significant() -> None:
    undefined = math.nan
    found = emergence(np.arange(7), [undefined, undefined, YES, YES, undefined, YES, YES])
    assert found.step is None and np.isnan(found.adjusted[[0, 1, 4]]).all()
    # not one of the four tests' p-values is enlarged for the steps without a test
    assert found.adjusted[2] == pytest.approx(YES)
    assert emergence(np.arange(7), [undefined] * 3 + [YES] * 4).step == 3
    assert emergence(np.arange(7), [undefined] * 3 + [YES] * 4).after == 2
    assert emergence(np.arange(3), [undefined] * 3).reason == "undefined at every step"
    with pytest.raises(InputError, match="2 distinct steps, under 3"):
        emergence([0, 1], [YES, YES])
    for steps, p in (([0, 0, 1], [NO] * 3), ([0, 1, 2], [NO] * 2), ([0, 1, 2], [NO, NO, 1.5])):
        with pytest.raises(ValueError, match=r"step|p-value"):
            emergence(steps, p)


p_lists = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0])), min_size=3, max_size=40)


@settings(deadline=None)
@given(p_lists)
def test_the_p_values_of_the_defined_steps_are_adjusted_by_benjamini_and_hochberg(p: list[float]) -> None:
    adjusted = emergence(np.arange(len(p) + 1), [math.nan, *p]).adjusted
    ranked = list(enumerate(sorted(p), start=1))
    wanted = [min(1.0, *(len(p) * later / rank for rank, later in ranked if later >= value)) for value in p]
    np.testing.assert_allclose(adjusted, [math.nan, *wanted], rtol=1e-12)


@settings(deadline=None)
@given(p_lists, st.integers(1, 60))
def test_a_later_tail_without_effect_never_makes_emergence_earlier(p: list[float], tail: int) -> None:
    before = emergence(np.arange(len(p)), p)
    after = emergence(np.arange(len(p) + tail), p + [1.0] * tail)
    assert after.step is None or (before.step is not None and after.step >= before.step)
    if tail > len(p) / 4:
        assert after.step is None


@settings(deadline=None)
@given(p_lists)
def test_only_the_order_of_steps_counts(p: list[float]) -> None:
    steps = np.arange(len(p))
    one, other = emergence(steps, p), emergence(steps**2 * 1000 + 7, p)
    assert other.step == (None if one.step is None else one.step**2 * 1000 + 7)
    assert other.after == (None if one.after is None else one.after**2 * 1000 + 7)


def test_nothing_emerges_from_independent_steps_without_effect() -> None:
    rng = np.random.default_rng(0)
    alarms = sum(emergence(LOG_STEPS, rng.random(len(LOG_STEPS))).step is not None for _ in range(2000))
    assert alarms <= 2  # a run of three by chance: about 16·0.05³/18² at most


def test_nothing_emerges_from_one_chance_effect_that_all_steps_share() -> None:
    # perfectly dependent steps are the worst case: the false emergence rate is then α itself
    rng = np.random.default_rng(1)
    alarms = sum(emergence(LOG_STEPS, np.full(len(LOG_STEPS), rng.random())).step is not None for _ in range(2000))
    assert stats.binomtest(alarms, 2000, 0.05, alternative="greater").pvalue > 0.001
    assert alarms > 40


@pytest.mark.parametrize("clusters", [math.nan, 2.0, 9.0, 300.0])
def test_an_interval_excludes_a_value_just_where_its_p_value_is_small(clusters: float) -> None:
    value, low, high = np.array([1.0, 1.0, -1.0, 0.5, 3.0]), np.zeros(5), np.full(5, 2.0)
    low[1], high[2], low[2], low[4], high[4] = -0.001, 0.2, -2.0, 3.0, 4.0
    known = stats.norm() if math.isnan(clusters) else stats.t(clusters - 1)
    reach = known.ppf(0.975)

    def p(bound: float, side: int) -> np.ndarray:
        return beyond_p(value, low, high, np.full(5, clusters), bound, side)

    np.testing.assert_allclose(p(0.0, 1)[0], 0.025, rtol=1e-9)
    assert p(0.0, 1)[1] > 0.025
    # each side has its own width; a value moved out of its interval counts from the middle of it
    assert p(0.0, -1)[2] == pytest.approx(known.sf(reach * 1.0 / 1.2))
    width, one = (3.0 - 2.0) / 2, np.array([clusters])
    outside = beyond_p(np.array([5.0]), np.array([2.0]), np.array([3.0]), one, 2.4, 1)
    assert outside[0] == pytest.approx(known.sf(reach * 0.1 / width))
    # no width on that side: certain
    assert p(0.0, 1)[4] == 0 and p(3.0, 1)[4] == 1
    undefined = beyond_p(np.array([math.nan]), np.array([0.0]), np.array([1.0]), one, 0.0, 1)
    # an interval that is open on one side says nothing there
    open_above = beyond_p(np.array([1.0]), np.array([0.5]), np.array([math.nan]), one, 2.0, -1)
    assert np.isnan(undefined[0]) and np.isnan(open_above[0])


@given(
    st.floats(-5, 5),
    st.floats(0.01, 3),
    st.floats(0.01, 3),
    st.floats(-5, 5),
    st.sampled_from([math.nan, 2.0, 5.0, 40.0]),
)
def test_the_90_percent_interval_and_the_p_value_agree(
    value: float, left: float, right: float, bound: float, clusters: float
) -> None:
    v, low, high = np.array([value]), np.array([value - left]), np.array([value + right])
    count = np.array([clusters])
    inner_low, inner_high = interval_90(v, low, high, count)
    assert low[0] < inner_low[0] < value < inner_high[0] < high[0]
    known = stats.norm() if math.isnan(clusters) else stats.t(clusters - 1)
    ratio = known.ppf(0.95) / known.ppf(0.975)
    np.testing.assert_allclose([inner_low[0], inner_high[0]], [value - ratio * left, value + ratio * right], atol=1e-9)
    for side, edge, outer in ((1, inner_low[0], low[0]), (-1, inner_high[0], high[0])):
        p = beyond_p(v, low, high, count, bound, side)[0]
        if abs(edge - bound) > 1e-9:
            assert (p < 0.05) == (side * (edge - bound) > 0)
        if abs(outer - bound) > 1e-9:
            assert (p < 0.025) == (side * (outer - bound) > 0)


def test_the_90_percent_interval_of_few_clusters_is_that_of_their_t_distribution() -> None:
    """A mean of 5 clusters: the stored 95 % interval shrinks to scipy's 90 % one, and steps differ in clusters."""
    mean, se, clusters = np.array([1.0, 2.0]), np.array([0.3, 0.5]), np.array([5.0, 60.0])
    outer, inner = [stats.t.interval(share, clusters - 1, mean, se) for share in (0.95, 0.9)]
    found = interval_90(mean, outer[0], outer[1], clusters)
    np.testing.assert_allclose(found, inner)


# series


def test_a_series_is_told_by_its_selection() -> None:
    def rows(step: int) -> list[Metric]:
        return [
            Metric("regimes", "excess", step + 0.5, token_class="rare", ci_low=step, ci_high=step + 1.0, n=9,
                   clusters=30, at_edge=step == 4),
            Metric("regimes", "excess", step + 0.25, token_class="rare", null="pseudo-class", null_mean=0.1,
                   null_sd=0.2, p_value=0.04),
            Metric("regimes", "excess", -1.0, token_class="common"),
            Metric("d", "d_eff", 9.0, group="top", null="random", null_mean=1.0, null_sd=1.0, p_value=0.1),
            Metric("d", "d_eff", 9.0, group="top", null="matched", null_mean=2.0, null_sd=1.0, p_value=0.2),
            Metric("r", "effect", 0.3, group="top", layer=3, head=7, ci_low=0.2, ci_high=0.4),
            Metric("r", "profile", 0.8, layer=3), Metric("r", "profile", 0.7, layer=3, head=0),
        ]  # fmt: skip

    metrics = frame({4: rows(4), 1: rows(1), 2: [Metric("regimes", "excess", None, token_class="rare", reason="why")]})
    own = series(metrics, Selection("regimes", "excess", "rare"))
    assert own.steps.tolist() == [1, 2, 4] and own.tokens_seen.tolist() == [10, 20, 40]
    np.testing.assert_array_equal(own.value, [1.5, math.nan, 4.5])
    np.testing.assert_array_equal(own.ci_low, [1, math.nan, 4])
    assert own.reasons == ("", "why", "") and np.isnan(own.p_value).all()
    np.testing.assert_array_equal(own.clusters, [30, math.nan, 30])
    assert own.at_edge == (False, False, True)
    against = series(metrics, Selection("regimes", "excess", "rare", null="pseudo-class"))
    assert against.value[2] == 4.25 and against.p_value[2] == 0.04 and against.reasons[1] == "why"
    matched = series(metrics, Selection("d", "d_eff", "rare", "top", "matched"))
    assert matched.null_mean[0] == 2.0 and matched.reasons[1] == "not measured at this step"
    either = series(metrics, Selection("d", "d_eff", "rare", "top"))
    assert either.value[0] == 9.0 and np.isnan(either.null_mean).all() and np.isnan(either.p_value).all()
    absent = series(metrics, Selection("d", "d_eff", "rare", "top", "selected"))
    assert absent.value[0] == 9.0 and np.isnan(absent.null_mean).all()
    assert series(metrics, Selection("r", "effect")).value[0] == 0.3
    assert series(metrics, Selection("r", "profile")).value[0] == 0.8
    with pytest.raises(InputError, match=r"step 1 holds 2 rows of regimes/excess with different value; name"):
        series(metrics.filter(pl.col("null").is_null()), Selection("regimes", "excess"))
    with pytest.raises(InputError, match="2 distinct steps"):
        series(metrics.filter(pl.col("step") > 1), Selection("regimes", "excess", "rare"))


def test_the_bundled_checkpoints_make_a_series(captured: Callable[[int], Capture], tmp_path) -> None:
    run = open_run(tmp_path / "run", manifest().replace(left_out={2: "it holds the same weights as step 1"}))
    expected = {}
    for step in (4000, 1, 512):
        rows = loss_metrics(mean_losses(captured(step), 256, np.arange(999) // 2))
        expected[step] = next(r for r in rows if r.token_class == "rare")
        for copy in {step, 2} if step == 1 else {step}:
            empty = pl.DataFrame({"step": [copy]})
            tables = StepTables(metric_frame(rows, copy, copy * 10), empty, empty)
            write_step(run, copy, record(copy, m=str(step)), tables)
    loss = series(trajectories(run), Selection("capture", "loss", "rare"))
    assert loss.steps.tolist() == [1, 512, 4000]
    assert loss.value.tolist() == [expected[s].value for s in (1, 512, 4000)]
    assert loss.ci_low.tolist() == [expected[s].ci_low for s in (1, 512, 4000)]
    assert loss.clusters.tolist() == [expected[s].clusters for s in (1, 512, 4000)] and loss.clusters[0] > 9
    assert loss.value[0] > loss.value[1] > loss.value[2]
    # below the uniform guess over the vocabulary, which the last of the three shows
    uniform = float(np.log(captured(1).anatomy.readout.unembedding.shape[0]))
    p = beyond_p(loss.value, loss.ci_low, loss.ci_high, loss.clusters, uniform, -1)
    assert p[0] > p[1] > p[2] and p[2] <= 0.025


# change points


def penalised(x: np.ndarray, y: np.ndarray, ends: tuple[int, ...], penalty: float) -> float:
    total = 0.0
    for start, end in itertools.pairwise((0, *ends)):
        fit = np.polyfit(x[start:end], y[start:end], 1)
        total += float(((y[start:end] - np.polyval(fit, x[start:end])) ** 2).sum())
    return total + penalty * (len(ends) - 1)


def brute_force(x: np.ndarray, y: np.ndarray, penalty: float, least: int) -> tuple[float, tuple[int, ...]]:
    candidates = []
    for changes in range(len(y) // least):
        for inner in itertools.combinations(range(least, len(y) - least + 1), changes):
            ends = (*inner, len(y))
            if all(b - a >= least for a, b in itertools.pairwise((0, *ends))):
                candidates.append((penalised(x, y, ends, penalty), ends))
    return min(candidates)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 14), st.floats(0, 12))
def test_the_segmentation_is_the_best_of_all(seed: int, k: int, jump: float) -> None:
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.choice(LOG_STEPS, k, replace=False))
    y = rng.standard_normal(k) + jump * (np.arange(k)[:, None] >= rng.integers(k, size=2)).sum(axis=1)
    found = change_points(steps, y)
    assert not isinstance(found, Undefined)
    best, ends = brute_force(np.log1p(steps), y, found.penalty, 3)
    mine = (*np.searchsorted(steps, found.steps).tolist(), k)
    assert penalised(np.log1p(steps), y, mine, found.penalty) == pytest.approx(best, abs=1e-8)
    assert len(mine) == len(ends)
    assert found.after == tuple(int(steps[e - 1]) for e in mine[:-1])


def test_the_search_is_not_pelts() -> None:
    from ruptures import Pelt

    worse, x = 0, np.log1p(np.arange(18))
    for seed in range(110, 130):
        y = np.random.default_rng(seed).standard_normal(18) * np.random.default_rng(seed + 1).exponential(3, 18)
        found = change_points(np.arange(18), y)
        assert not isinstance(found, Undefined)
        signal = np.column_stack([y, np.ones_like(x), x - x.mean()])
        pelt = tuple(Pelt(model="linear", min_size=3, jump=1).fit_predict(signal, pen=found.penalty))
        gap = penalised(x, y, pelt, found.penalty) - penalised(x, y, (*found.steps, 18), found.penalty)
        assert gap > -1e-9
        worse += gap > 1e-9
    assert worse > 0


@pytest.mark.parametrize("noise_sd", [0.0, 0.05])
def test_planted_steps_and_slopes_are_found(noise_sd: float) -> None:
    rng = np.random.default_rng(3)
    x = np.log1p(LOG_STEPS)
    y = np.where(LOG_STEPS < 64, 5.0, 9.0 - 0.5 * x) + noise_sd * rng.standard_normal(len(x))
    found = change_points(LOG_STEPS, y)
    assert not isinstance(found, Undefined) and (found.steps, found.after) == ((64,), (32,))


def test_a_steady_drift_is_one_segment() -> None:
    rng = np.random.default_rng(4)
    y = 3 * np.log1p(LOG_STEPS) + 0.1 * rng.standard_normal(len(LOG_STEPS))
    found = change_points(LOG_STEPS, y)
    assert not isinstance(found, Undefined) and found.steps == ()


def test_noise_alone_seldom_changes() -> None:
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(300):
        found = change_points(LOG_STEPS, rng.standard_normal(len(LOG_STEPS)))
        assert not isinstance(found, Undefined)
        alarms += bool(found.steps)
    # 4.6 % of 2,000 series in the long version
    assert alarms <= stats.binom.ppf(0.999, 300, 0.05)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.sampled_from([-1.0, 1.0]))
def test_changes_do_not_depend_on_the_metrics_units(seed: int, shift: float, scale: float, sign: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.standard_normal(18) + 6 * (np.arange(18) >= 9)
    one, other = change_points(LOG_STEPS, y), change_points(LOG_STEPS, shift + sign * scale * y)
    assert not isinstance(one, Undefined) and not isinstance(other, Undefined)
    assert one.steps == other.steps and other.penalty == pytest.approx(scale**2 * one.penalty, rel=1e-6)


def test_degenerate_series_have_no_change_points() -> None:
    assert change_points([0, 1, 2, 3, 4], np.arange(5.0)) == Undefined("5 defined steps, under two segments of 3")
    flat = change_points(np.arange(9), np.full(9, 0.25))
    assert not isinstance(flat, Undefined) and flat.steps == ()
    y = np.where(np.arange(12) < 6, 0.0, 1.0)
    y[[2, 9]] = math.nan
    holes = change_points(np.arange(12), y)
    assert not isinstance(holes, Undefined) and holes.steps == (6,) and holes.after == (5,)
    # mostly flat with a few one-off values: no staircase of exact fits
    ties = np.array([7.0] * 10 + [8.0] + [7.0] * 7)
    found = change_points(LOG_STEPS, ties)
    assert not isinstance(found, Undefined) and found.steps == () and found.penalty > 0
    with pytest.raises(ValueError, match="ascend"):
        change_points([1, 1, 2], [0.0, 1.0, 2.0])


# trends


@given(st.integers(0, 10**6), st.integers(5, 25))
@settings(deadline=None)
def test_the_slope_is_scipys(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    steps, y = np.sort(rng.choice(5000, k, replace=False)), rng.standard_normal(k)
    found, theirs = trend(steps, y), stats.theilslopes(y, np.log1p(steps))
    assert not isinstance(found, Undefined)
    assert found.slope == pytest.approx(theirs.slope, rel=1e-9)
    assert found.low <= found.slope <= found.high


@given(st.integers(0, 10**6), st.integers(5, 14))
@settings(deadline=None)
def test_zero_is_excluded_just_where_kendalls_exact_test_rejects(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.arange(k)
    y = 0.4 * steps * rng.integers(-1, 2) + rng.standard_normal(k)
    found = trend(steps, y)
    assert not isinstance(found, Undefined)
    rejected = stats.kendalltau(steps, y, method="exact").pvalue <= 0.05
    assert rejected == (found.low > 0 or found.high < 0)


def test_the_interval_of_a_trend_covers_the_slope() -> None:
    rng = np.random.default_rng(6)
    x, hits = np.log1p(LOG_STEPS), 0
    for _ in range(600):
        found = trend(LOG_STEPS, -0.3 * x + rng.standard_t(2, len(x)))
        assert not isinstance(found, Undefined)
        hits += found.low <= -0.3 <= found.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 600) < hits / 600 < 0.985


def test_a_trend_needs_five_defined_steps() -> None:
    y = np.array([1.0, 2.0, math.nan, 3.0, 4.0])
    assert trend(np.arange(5), y) == Undefined("4 defined steps, too few to reject any slope")
    assert trend([], []) == Undefined("0 defined steps, too few to reject any slope")
    flat = trend(np.arange(6), np.full(6, 2.0))
    assert not isinstance(flat, Undefined) and flat.low == flat.slope == flat.high == 0
