"""Intervals from standard errors, against scipy's distributions and by their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.statistics import estimate
from rtdyn.intervals import NORMAL_90, NORMAL_95, normal_interval, t_interval, t_quantile


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
