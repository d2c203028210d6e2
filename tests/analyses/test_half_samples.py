"""Statistics without their error of order 1/n: exact cases, the winner's curse, coverage, and refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.half_samples import (
    HALVES,
    MIN_CLUSTERS,
    QUARTERS,
    Corrected,
    HalfSamples,
    corrected,
    half_samples,
    means,
)
from rtdyn.undefined import Undefined

Statistic = Callable[[np.ndarray], np.ndarray]


def drawn(clusters: int, seed: int = 0) -> HalfSamples:
    samples = half_samples(clusters, np.random.default_rng(seed))
    assert isinstance(samples, HalfSamples)
    return samples


def of_statistic(statistic: Statistic, sums: np.ndarray, samples: HalfSamples) -> Corrected:
    """The statistic of means (k, F) of clusters of one position each (g, F), corrected."""
    result = corrected(statistic(means(samples.weights(), sums, np.ones(len(sums)))), len(sums))
    assert isinstance(result, Corrected), result
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(MIN_CLUSTERS, 60), st.integers(0, 999))
def test_halves_come_in_pairs_that_make_up_the_whole(clusters: int, seed: int) -> None:
    samples = drawn(clusters, seed)
    assert samples.halves.shape == (HALVES, clusters)
    assert samples.quarters.shape == (HALVES * QUARTERS, clusters)
    assert (samples.halves[0::2] ^ samples.halves[1::2]).all()
    assert set(samples.halves.sum(1)) <= {clusters // 2, (clusters + 1) // 2}
    of_half = samples.quarters.reshape(HALVES, QUARTERS // 2, 2, clusters)
    assert (of_half.sum(2) == samples.halves[:, None]).all()
    assert samples.quarters.sum(1).min() >= clusters // 4 and samples.weights()[0].all()
    again = drawn(clusters, seed)
    assert (again.halves == samples.halves).all() and (again.quarters == samples.quarters).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 5))
def test_means_are_those_of_positions_pooled_by_a_loop(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=(rng.integers(1, 6), width)) for _ in range(9)]
    sums, counts = np.array([v.sum(0) for v in values]), np.array([len(v) for v in values])
    weights = drawn(9, seed).weights()
    found = means(weights, sums, counts)
    for k in (0, 1, 57, HALVES + 3):
        pooled = np.concatenate([v for v, flag in zip(values, weights[k], strict=True) if flag])
        np.testing.assert_allclose(found[k], pooled.mean(0), atol=1e-12)


def test_a_bias_of_order_1_over_n_is_taken_out_exactly() -> None:
    # μ + b/n on 40, 20 and 10 clusters
    sizes = np.concatenate([[40.0], np.full(HALVES, 20.0), np.full(HALVES * QUARTERS, 10.0)])
    result = corrected(3.0 + 7.0 / sizes, 40)
    assert isinstance(result, Corrected)
    assert result.value == pytest.approx(3.0, abs=1e-12) and result.plain == 3.0 + 7.0 / 40
    assert result.se == pytest.approx(0, abs=1e-7) and result.clusters == 40


def test_the_corrected_square_of_a_mean_is_the_unbiased_one() -> None:
    rng = np.random.default_rng(1)
    found, plain = [], []
    for _ in range(300):
        values = 0.3 + rng.standard_normal((16, 1))
        result = of_statistic(lambda m: m[:, 0] ** 2, values, drawn(16, int(rng.integers(2**31))))
        # halves of all C(16, 8) would give mean² − S²/n, whatever the data; those drawn scatter about it
        unbiased = values.mean() ** 2 - values.var(ddof=1) / 16
        assert abs(result.value - unbiased) < 0.06
        found.append(result.value)
        plain.append(result.plain)
    assert abs(np.mean(found) - 0.09) < 3 * np.std(found) / np.sqrt(300)
    assert abs(np.mean(plain) - (0.09 + 1 / 16)) < 3 * np.std(plain) / np.sqrt(300)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(-3, 3), st.floats(0.1, 10))
def test_a_mean_is_left_as_it_is_with_its_usual_error(seed: int, shift: float, factor: float) -> None:
    values = np.random.default_rng(seed).standard_normal((20, 1))
    first = of_statistic(lambda m: m[:, 0], values, drawn(20, seed))
    moved = of_statistic(lambda m: shift + factor * m[:, 0], values, drawn(20, seed))
    assert first.value == pytest.approx(values.mean(), abs=1e-12) and first.plain == pytest.approx(values.mean())
    assert first.se == pytest.approx(float(values.std(ddof=1)) / 20**0.5, rel=0.35)
    np.testing.assert_allclose([moved.value, moved.se], [shift + factor * first.value, factor * first.se], atol=1e-9)
    estimate = first.estimate()
    assert estimate.low is not None and estimate.high is not None
    reach = stats.t.ppf(0.975, 19) * first.se
    np.testing.assert_allclose([estimate.low, estimate.high], [first.value - reach, first.value + reach])


def coverage(truth: np.ndarray, clusters: int, data_sets: int, seed: int) -> tuple[float, float, np.ndarray]:
    """How often the corrected interval of the largest mean of unit noise holds its truth, and the plain one; errors."""
    rng = np.random.default_rng(seed)
    covered = np.zeros((data_sets, 2), dtype=bool)
    errors = np.zeros((data_sets, 2))
    for k in range(data_sets):
        values = truth + rng.standard_normal((clusters, len(truth)))
        result = of_statistic(lambda m: m.max(1), values, drawn(clusters, int(rng.integers(2**31))))
        estimate = result.estimate()
        assert estimate.low is not None and estimate.high is not None
        reach = stats.t.ppf(0.975, clusters - 1) * result.plain_se
        covered[k] = estimate.low <= truth.max() <= estimate.high, abs(result.plain - truth.max()) <= reach
        errors[k] = result.value - truth.max(), result.plain - truth.max()
    return float(covered[:, 0].mean()), float(covered[:, 1].mean()), errors.mean(0)


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "plain_covers"), [(1.0, 0.85), (0.5, 0.6)])
def test_the_largest_of_50_noisy_means_is_covered_and_without_most_of_its_curse(
    spread: float, plain_covers: float
) -> None:
    covered, plain, (error, curse) = coverage(np.linspace(0, spread, 50), 40, 300, 0)
    assert 0.92 <= covered <= 0.98
    assert plain <= plain_covers
    assert abs(error) < curse / 2


@pytest.mark.slow
def test_of_equal_means_the_correction_leaves_the_share_that_its_theory_says() -> None:
    # the largest of equal means errs by b/√n: 2·b/√n − b/√(n/2) = (2 − √2)·b/√n is left
    _, _, (error, curse) = coverage(np.zeros(50), 40, 100, 0)
    expected = float(np.sqrt(1 / 40) * stats.norm.expect(lambda x: x * 50 * stats.norm.cdf(x) ** 49))
    assert curse == pytest.approx(expected, rel=0.06)
    assert error / curse == pytest.approx(2 - 2**0.5, abs=0.06)


def test_what_has_no_value_gives_reasons() -> None:
    assert half_samples(7, np.random.default_rng(0)) == Undefined(
        "the class lies in 7 independent pieces of text, under 8"
    )
    values = np.random.default_rng(0).standard_normal(1 + HALVES + HALVES * QUARTERS)
    values[0] = np.nan
    assert corrected(values, 9) == Undefined("it is undefined on the whole text")
    values[:52] = 1.0, *np.full(51, np.nan)
    assert corrected(values, 9) == Undefined("51 of 100 halves of the text have no value")
    values[1:52] = 0.0
    # a half without two quarters has no corrected value
    values[1 + HALVES :].reshape(HALVES, QUARTERS)[:51, 1:] = np.nan
    assert corrected(values, 9) == Undefined("51 of 100 halves of the text have no value")
    values[1 + HALVES :].reshape(HALVES, QUARTERS)[:2, 1] = 0.0
    rest = corrected(values, 9)
    assert isinstance(rest, Corrected) and np.isfinite([rest.value, rest.se]).all()
    assert rest.value == pytest.approx(2 - values[1 : 1 + HALVES].mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(-3, 3), st.floats(0.1, 10))
def test_an_interval_that_reaches_over_leaps_holds_the_t_interval_and_is_hardly_wider_without_them(
    seed: int, shift: float, factor: float
) -> None:
    values = np.random.default_rng(seed).standard_normal((20, 1))
    first = of_statistic(lambda m: m[:, 0], values, drawn(20, seed))
    moved = of_statistic(lambda m: shift + factor * m[:, 0], values, drawn(20, seed))
    plain, over, of_moved = first.estimate(), first.estimate_with_leaps(), moved.estimate_with_leaps()
    assert plain.low is not None and plain.high is not None and over.low is not None and over.high is not None
    assert over.low <= plain.low and plain.high <= over.high
    assert over.high - over.low < 1.3 * (plain.high - plain.low)
    ends = [shift + factor * over.low, shift + factor * over.high]
    np.testing.assert_allclose([of_moved.low, of_moved.high], ends, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.0, 0.05])
def test_a_number_that_leaps_with_the_sign_of_a_mean_is_covered_where_the_t_interval_fails(mean: float) -> None:
    rng, truth = np.random.default_rng(0), 1 + 0.05 * mean
    held = np.zeros((300, 2), dtype=bool)
    for k in range(len(held)):
        values = mean + rng.standard_normal((40, 1))
        result = of_statistic(lambda m: (m[:, 0] > 0) + 0.05 * m[:, 0], values, drawn(40, k))
        for j, estimate in enumerate((result.estimate(), result.estimate_with_leaps())):
            assert estimate.low is not None and estimate.high is not None
            held[k, j] = estimate.low <= truth <= estimate.high
    assert held[:, 0].mean() < 0.9 < held[:, 1].mean() <= 0.98
