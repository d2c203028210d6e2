"""Intervals from standard errors, against scipy's distributions and by their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.statistics import estimate, mean_estimate, mean_interval
from rtdyn.intervals import NORMAL_90, NORMAL_95, normal_interval, skewed_interval, t_interval, t_quantile


@given(st.integers(2, 5000), st.sampled_from([0.9, 0.95, 0.99]))
def test_quantiles_are_students(clusters: int, share: float) -> None:
    assert t_quantile(clusters, share) == pytest.approx(stats.t.ppf((1 + share) / 2, clusters - 1), rel=1e-9)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.integers(2, 200))
def test_an_interval_is_scipys_and_narrows_with_the_clusters(value: float, se: float, clusters: int) -> None:
    low, high = t_interval(value, se, clusters)
    assert low is not None and high is not None
    expected = np.add(value, np.array(stats.t.interval(0.95, clusters - 1)) * se)
    np.testing.assert_allclose([low, high], expected, rtol=1e-9, atol=1e-9)
    fewer, more = t_interval(value, se, clusters), t_interval(value, se, clusters + 1)
    assert fewer[0] is not None and more[0] is not None and fewer[0] <= more[0]
    normal = normal_interval(value, se)
    assert normal[0] is not None and low <= normal[0]
    made = estimate(value, se, clusters)
    assert (made.value, made.low, made.high, made.clusters) == (value, low, high, clusters)


def test_many_clusters_are_as_good_as_a_known_error_and_one_is_none() -> None:
    assert t_quantile(10**7) == pytest.approx(NORMAL_95, rel=1e-6)
    assert t_quantile(10**7, 0.9) == pytest.approx(NORMAL_90, rel=1e-6)
    assert math.isnan(t_quantile(1))
    for se, clusters in ((1.0, 1), (math.nan, 9), (math.inf, 9)):
        assert t_interval(0.0, se, clusters) == (None, None)
    assert normal_interval(0.0, math.nan) == (None, None)


def test_four_clusters_are_covered_at_the_nominal_rate_where_the_normal_interval_is_not() -> None:
    values = np.random.default_rng(0).standard_normal((4000, 4))
    means, ses = values.mean(1), values.std(1, ddof=1) / 2
    students, normal = (
        np.mean([low <= 0 <= high for low, high in (interval(m, s) for m, s in zip(means, ses, strict=True))])
        for interval in (lambda m, s: t_interval(m, s, 4), normal_interval)
    )
    assert students == pytest.approx(0.95, abs=0.012)
    assert normal < 0.9


@given(st.floats(-10, 10), st.integers(8, 200))
def test_an_interval_leans_with_the_skewness_and_never_leaps(skewness: float, clusters: int) -> None:
    low, high = skewed_interval(0.0, 1.0, skewness, clusters)
    assert low is not None and high is not None and low < 0 < high
    reach = t_quantile(clusters)
    most = 3 * (math.sqrt(reach**2 + 7 / 12) - reach)
    assert max(-low, high) <= 3 / (2 * most) + 1e-9
    # each end moves with the skewness, little by little
    further = skewed_interval(0.0, 1.0, skewness + 0.01, clusters)
    assert further[0] is not None and further[1] is not None
    assert low - 1e-9 <= further[0] and high - 1e-9 <= further[1]
    assert further[1] - high < 0.1 and further[0] - low < 0.1
    mirrored = skewed_interval(0.0, 1.0, -skewness, clusters)
    np.testing.assert_allclose(mirrored, [-high, -low], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("clusters", "least"), [(8, 0.87), (12, 0.885), (20, 0.90), (40, 0.915)])
def test_means_of_few_skewed_clusters_are_covered_better_than_by_t_and_no_interval_is_absurd(
    clusters: int, least: float
) -> None:
    values = np.random.default_rng(0).lognormal(0, 1, (clusters, 4000))
    ends = np.array(mean_interval(torch.from_numpy(values), torch.ones(clusters), least=0.0))
    truth, mean, se = math.exp(0.5), values.mean(0), values.std(0, ddof=1) / math.sqrt(clusters)
    t = t_quantile(clusters) * se
    covered, students = ((low <= truth) & (truth <= high) for low, high in (ends.T, (mean - t, mean + t)))
    assert covered.mean() > max(least, students.mean() + 0.02)
    assert ((ends[:, 1] - mean) / se).max() < 4.5 and (ends >= 0).all()


def test_a_mean_of_what_is_never_negative_has_no_interval_below_zero() -> None:
    """Eleven documents of ordinary loss, and a long one of next to none: its weight makes the spread large."""
    counts = torch.tensor([100.0] * 11 + [3000.0])
    sums = counts * torch.tensor([3.0] * 11 + [0.05])
    free, loss = mean_estimate(sums, counts), mean_estimate(sums, counts, least=0.0)
    assert free.low is not None and free.low < 0 and free.high == loss.high
    assert loss.low == 0.0 and loss.value == free.value and loss.clusters == 12


def test_clusters_of_very_unlike_sizes_are_covered_and_do_not_lean_to_the_largest() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        sizes = np.maximum(1, (20 * rng.lognormal(-0.5, 1.0, 20)).round())
        means = rng.normal(0, 0.5, 20) + rng.normal(0, np.sqrt(0.75 / sizes))
        ((low, high),) = mean_interval(torch.from_numpy(sizes * means)[:, None], torch.from_numpy(sizes))
        assert low is not None and high is not None
        covered += low <= 0 <= high
    assert 0.915 <= covered / 1000 <= 0.97
