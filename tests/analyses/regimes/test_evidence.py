"""Shape nulls, bootstrap and likelihoods: calibration, power on planted plateaus, closed forms, and refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.regimes.evidence import (
    COMPARISONS,
    INTERVAL_STATISTICS,
    LOGNORMAL,
    PARETO,
    SHAPES,
    Bootstrap,
    Interval,
    Likelihoods,
    ShapeEvidence,
    bias_corrected,
    bootstrap,
    likelihoods,
    log_of_shape,
    null_statistics,
    resampling_units,
    shape_p_values,
)
from rtdyn.analyses.regimes.fit import ThreeSegments, fit_regimes
from rtdyn.capture.forward_pass import Capture
from rtdyn.text.evaluation import Evaluation
from rtdyn.undefined import Undefined

DATASETS = 200
KS_1_PERCENT = 1.63


def raised_top(neurons: int, top: int, spread: float, height: float, rng: np.random.Generator) -> np.ndarray:
    """Lognormal influence of log-sd `spread` in random order, the `top` largest raised by `height` log units."""
    log_a = spread * rng.standard_normal(neurons)
    log_a[np.argsort(-log_a)[:top]] += height
    return np.exp(log_a)


def p_values_under(
    shape: str, neurons: int, uncensored: int, datasets: int, draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """p against each shape of data sets that have one shape, and of which all but the largest are censored."""
    results = []
    for log_a in log_of_shape(shape, (datasets, neurons), rng):
        values = np.exp(log_a)
        cut = np.sort(values)[-uncensored - 1] if uncensored < neurons else 0.0
        results.append(evidence(values, draws, cut).p_values)
    return {name: np.array([r[name] for r in results]) for name in SHAPES}


def evidence(values: np.ndarray, draws: int = 499, uncertainty: float = 0.0) -> ShapeEvidence:
    result = shape_p_values(values, np.full(len(values), uncertainty), draws)
    assert isinstance(result, ShapeEvidence), result
    return result


@pytest.mark.slow
@pytest.mark.parametrize("uncensored", [128, 90])
def test_each_p_value_is_uniform_under_its_own_shape_and_the_largest_is_valid_under_all(uncensored: int) -> None:
    rng = np.random.default_rng(uncensored)
    for shape in SHAPES:
        p = p_values_under(shape, 128, uncensored, DATASETS, 999, rng)
        # two samples: the data sets, and the null that they share
        assert stats.kstest(p[shape], "uniform").statistic < KS_1_PERCENT * np.sqrt(1 / DATASETS + 1 / 999)
        largest = np.max(list(p.values()), axis=0)
        for level in (0.05, 0.2):
            assert (largest <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / DATASETS)
    assert not np.allclose(p[PARETO], p[LOGNORMAL])


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "height"), [(0.3, 1.0), (1.0, 3.0)])
def test_a_raised_top_is_found_against_every_shape(spread: float, height: float) -> None:
    rng = np.random.default_rng(1)
    found = [evidence(raised_top(2048, 20, spread, height, rng)).p_value <= 0.05 for _ in range(30)]
    assert np.mean(found) >= 0.95


@pytest.mark.slow
def test_one_log_unit_on_a_wide_bulk_beats_the_two_light_shapes_and_its_end_is_located() -> None:
    rng = np.random.default_rng(2)
    curves = [raised_top(2048, 20, 1.0, 1.0, rng) for _ in range(30)]
    results = [evidence(c) for c in curves]
    for shape in ("half_normal", "lognormal"):
        assert np.mean([r.p_values[shape] <= 0.05 for r in results]) >= 0.95
    # the largest few of a Pareto sample scatter by more than that
    assert np.mean([r.p_values["pareto"] <= 0.05 for r in results]) < 0.5
    fits = [fit_regimes(c, np.zeros(2048)).fit for c in curves]
    assert np.mean([isinstance(f, ThreeSegments) and f.raised and abs(np.log(f.r1 / 20)) < 0.15 for f in fits]) >= 0.95


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 500), factor=st.floats(1e-5, 1e5), power=st.floats(0.2, 4.0))
def test_scale_exponent_and_order_of_neurons_do_not_matter(seed: int, factor: float, power: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=200)
    one, other = evidence(values, 99), evidence(factor * rng.permutation(values) ** power, 99)
    assert one.statistic == pytest.approx(other.statistic, abs=1e-4)
    for shape in SHAPES:
        assert one.p_values[shape] == pytest.approx(other.p_values[shape], abs=0.021)


def test_nulls_are_censored_like_the_data_and_shared() -> None:
    values = np.random.default_rng(0).lognormal(size=300)
    cut = float(np.sort(values)[49])
    result = evidence(values, 99, cut)
    null = null_statistics(LOGNORMAL, 300, 250, 99, 0)
    assert null is null_statistics(LOGNORMAL, 300, 250, 99, 0)
    assert isinstance(null, np.ndarray) and not null.flags.writeable
    assert result.p_values[LOGNORMAL] == (1 + (null >= result.statistic).sum()) / 100
    assert (result.null_means[LOGNORMAL], result.null_sds[LOGNORMAL]) == (null.mean(), null.std(ddof=1))
    by_hand = []
    for row in log_of_shape(LOGNORMAL, (99, 300), np.random.default_rng([0, SHAPES.index(LOGNORMAL)])):
        top = np.sort(row)[50:]
        fit = fit_regimes(np.exp(row), np.full(300, np.exp(np.sort(row)[49]))).fit
        assert isinstance(fit, ThreeSegments)
        by_hand.append(fit.excess / (np.percentile(top, 75) - np.percentile(top, 25)))
    assert null == pytest.approx(np.array(by_hand), abs=1e-6)


def test_curves_without_a_statistic_say_why() -> None:
    zero = np.zeros(200)
    assert shape_p_values(zero, zero, 99) == Undefined("0 uncensored neurons, under 15")
    assert shape_p_values(np.ones(200), zero, 99) == Undefined(
        "the middle half of the uncensored neurons have equal influence"
    )
    # neurons whose ranks reach to 300 have a fit, as many of the largest of a null curve have none
    gaps = np.full(300, 1e9)
    gaps[np.unique(np.geomspace(1, 300, 24).astype(int)) - 1] = 0
    result = shape_p_values(np.arange(1, 301) ** -0.5, gaps, 99)
    assert isinstance(result, Undefined) and result.reason.startswith("the shape nulls' curves have no fit")


def test_the_bias_corrected_interval_covers_where_its_theory_is_exact() -> None:
    """θ̂ ~ N(θ − z0, 1) and θ̂* ~ N(θ̂ − z0, 1), seen through any monotone function: coverage 95 %."""
    rng = np.random.default_rng(0)
    z0, repeats = 0.8, 1000
    covered = plain = 0
    for estimate in rng.normal(-z0, 1, repeats):
        draws = np.exp(rng.normal(estimate - z0, 1, 1999))
        interval = bias_corrected(float(np.exp(estimate)), draws)
        assert isinstance(interval, Interval)
        covered += interval.low <= 1 <= interval.high
        low, high = np.quantile(draws, (0.025, 0.975))
        plain += low <= 1 <= high
    assert covered / repeats == pytest.approx(0.95, abs=0.022)
    assert plain / repeats < 0.8


def test_the_interval_of_a_mean_is_that_of_the_plain_percentiles_when_unbiased() -> None:
    draws = np.arange(1, 1000) / 1000
    assert bias_corrected(0.5, draws) == Interval(0.025, 0.975)
    assert bias_corrected(3.0, np.full(9, 3.0)) == Interval(3.0, 3.0)
    assert bias_corrected(0.0, draws) == Undefined("all 999 draws lie above the estimate")
    assert "too one-sided" in str(bias_corrected(0.0015, draws))


def windows_of(curve: np.ndarray, windows: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Sums and counts of windows whose mean is the curve, with relative noise."""
    n = rng.integers(3, 9, windows)
    return n[:, None] * curve * np.exp(noise * rng.standard_normal((windows, len(curve)))), n, np.arange(windows)


def run_bootstrap(sums: np.ndarray, n: np.ndarray, ids: np.ndarray, **options: int) -> Bootstrap:
    result = bootstrap(sums, n, ids, np.arange(len(ids)), np.zeros(sums.shape[1]), **options)
    assert isinstance(result, Bootstrap), result
    return result


def test_a_planted_plateau_has_stable_members_and_a_flattening_has_none() -> None:
    rng = np.random.default_rng(3)
    order = rng.permutation(400)
    x = np.log(np.arange(1, 401))
    raised = np.where(np.arange(400) < 15, 1.0, -0.5 * x - 2.0 * np.maximum(x - np.log(150), 0))
    flat = np.where(np.arange(400) < 15, -1.6, -0.5 * x - 2.0 * np.maximum(x - np.log(150), 0))
    result = run_bootstrap(*windows_of(np.exp(raised[order]), 40, 0.3, rng), draws=60)
    assert (result.unit, result.units, result.no_fit_share, result.raised_share) == ("documents", 40, 0, 1)
    assert ((result.stable_share > 0.5) == (order < 15)).all()
    interval = result.intervals["excess"]
    assert isinstance(interval, Interval) and interval.low > 1
    lower = run_bootstrap(*windows_of(np.exp(flat[order]), 40, 0.02, rng), draws=60)
    assert lower.raised_share < 0.5 and (lower.stable_share <= 0.5).all() and (lower.top_share > 0.5).sum() >= 5


def test_resampling_is_that_of_a_loop_over_units() -> None:
    rng = np.random.default_rng(5)
    sums, n, ids = windows_of(rng.lognormal(size=120), 30, 0.4, rng)
    documents = np.arange(30) // 2
    uncertainty = np.full(120, 0.2)
    result = bootstrap(sums, n, ids, documents, uncertainty, draws=40, seed=9)
    assert isinstance(result, Bootstrap) and (result.unit, result.units) == ("documents", 15)
    times = np.random.default_rng(9).multinomial(15, np.full(15, 1 / 15), size=40)
    fits = []
    members = np.zeros(120)
    for draw in times:
        rows = [w for unit, count in enumerate(draw) for w in np.flatnonzero(documents == unit).tolist() * int(count)]
        regimes = fit_regimes(sums[rows].sum(0) / n[rows].sum(), uncertainty)
        assert isinstance(regimes.fit, ThreeSegments)
        fits.append(regimes.fit)
        members += (regimes.label == "plateau") & regimes.fit.raised
    assert result.stable_share == pytest.approx(members / 40)
    whole = fit_regimes(sums.sum(0) / n.sum(), uncertainty).fit
    for name in INTERVAL_STATISTICS:
        expected = bias_corrected(getattr(whole, name), np.array([getattr(f, name) for f in fits]))
        if isinstance(expected, Undefined):
            assert result.intervals[name] == expected
        else:
            interval = result.intervals[name]
            assert isinstance(interval, Interval)
            assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 500), factor=st.floats(1e-4, 1e4))
def test_bootstrap_follows_a_permutation_and_ignores_scale(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    sums, n, ids = windows_of(rng.lognormal(size=150), 12, 0.3, rng)
    order = rng.permutation(150)
    one, other = (run_bootstrap(s, n, ids, draws=20, seed=seed) for s in (sums, factor * sums[:, order]))
    assert one.stable_share[order] == pytest.approx(other.stable_share, abs=0.051)
    for name in INTERVAL_STATISTICS:
        a, b = one.intervals[name], other.intervals[name]
        if isinstance(a, Interval) and isinstance(b, Interval):
            assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-3, abs=1e-3)
        else:
            assert a == b


def test_few_documents_give_way_to_blocks_of_windows() -> None:
    documents = np.repeat(np.arange(3), 30)
    unit, index = resampling_units(np.arange(0, 90, 2), documents)
    assert unit == "blocks" and index.max() + 1 == 11
    starts = np.searchsorted(np.arange(90) * 11 // 90, np.arange(12))
    assert np.diff(starts).min() >= 8
    assert resampling_units(np.arange(90), np.arange(90) // 9)[0] == "documents"
    rng = np.random.default_rng(0)
    sums, n, ids = windows_of(rng.lognormal(size=100), 20, 0.1, rng)
    nothing = np.zeros(100)
    assert bootstrap(sums, n, ids, np.zeros(20, dtype=int), nothing) == Undefined("the class lies in 2 blocks, under 5")
    assert bootstrap(sums, n, ids, np.arange(20), np.full(100, 1e9)) == Undefined("0 uncensored neurons, under 15")


def test_most_draws_without_a_fit_leave_no_bootstrap() -> None:
    # each neuron acts in one window only, and a resample misses a third of the windows
    sums = np.zeros((10, 36))
    sums[np.arange(36) % 10, np.arange(36)] = np.exp(-0.05 * np.arange(36))
    ten = np.arange(10)
    result = bootstrap(sums, np.full(10, 2), ten, ten, np.zeros(36), 50)
    assert isinstance(result, Undefined) and result.reason.endswith("of 50 resampled curves have no fit")
    more = bootstrap(np.tile(sums, 3), np.full(10, 2), ten, ten, np.zeros(108), 50)
    assert isinstance(more, Bootstrap) and 0 <= more.no_fit_share < 0.5


@pytest.mark.slow
def test_likelihoods_of_a_power_law_and_of_a_lognormal(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pareto = likelihoods(rng.pareto(1.5, 1500) + 1)
    lognormal = likelihoods(rng.lognormal(0, 1, 1500))
    assert isinstance(pareto, Likelihoods) and isinstance(lognormal, Likelihoods)
    assert pareto.alpha == pytest.approx(2.5, abs=0.2)
    assert pareto.p_values["power_law_over_lognormal"] > 0.05
    assert lognormal.tail < pareto.tail
    assert set(pareto.ratios) == set(COMPARISONS)
    assert pareto.ratios["power_law_over_truncated"] <= 1e-6
    assert capfd.readouterr() == ("", "")


def test_the_power_law_is_the_closed_form_and_its_ratio_that_of_scipy() -> None:
    values = np.random.default_rng(1).lognormal(0, 1, 400)
    result = likelihoods(values)
    scaled = likelihoods(1e-6 * values)
    assert isinstance(result, Likelihoods) and isinstance(scaled, Likelihoods)
    tail = values[values >= result.xmin * (1 - 1e-12)]
    assert len(tail) == result.tail
    assert result.alpha == pytest.approx(1 + len(tail) / np.log(tail / result.xmin).sum(), rel=1e-6)
    distance = stats.kstest(tail, lambda v: 1 - (v / result.xmin) ** (1 - result.alpha)).statistic
    assert result.ks_distance == pytest.approx(distance, abs=1.01 / len(tail))
    assert scaled.xmin == pytest.approx(1e-6 * result.xmin)
    for name in COMPARISONS:
        assert scaled.ratios[name] == pytest.approx(result.ratios[name], rel=1e-3, abs=1e-3)


def test_influence_without_a_distribution_says_why() -> None:
    assert likelihoods(np.zeros(50)) == Undefined("fewer than two different influences above 0")
    assert likelihoods(np.ones(50)) == Undefined("fewer than two different influences above 0")
    few = likelihoods(np.array([1.0, 2.0, 0.0]))
    assert isinstance(few, Undefined) and few.reason.startswith("powerlaw")


@pytest.mark.parametrize("step", [1, 512, 4000])
def test_real_checkpoints(step: int, captured: Callable[[int], Capture], evaluation: Evaluation) -> None:
    c = influence(captured(step), torch.full((2560,), -1), 1).classes["rare"]
    values, uncertainty = c.mean_abs.numpy(), (2 * c.mean_abs_se + c.error_bound).numpy()
    shapes = shape_p_values(values, uncertainty, 199)
    assert isinstance(shapes, ShapeEvidence)
    # whatever the step, the curve of a model this small is within what a Pareto sample shows
    assert shapes.p_value > 0.05 and min(shapes.p_values.values()) >= 1 / 200
    windows = c.window_abs_sum.numpy(), c.window_n.numpy(), c.window_ids.numpy()
    resampled = bootstrap(*windows, evaluation.text.documents, uncertainty, 100)
    assert isinstance(resampled, Bootstrap) and resampled.no_fit_share < 0.1
    assert (resampled.stable_share <= resampled.top_share).all()
    assert resampled.top_share.sum() >= 5
    kappa = resampled.intervals["kappa"]
    fit = fit_regimes(values, uncertainty).fit
    assert isinstance(kappa, Interval) and isinstance(fit, ThreeSegments) and kappa.low <= fit.kappa <= kappa.high
    assert isinstance(likelihoods(values), Likelihoods)
