"""Spearman's correlation: scipy's value, an interval that holds what it should, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rtdyn.rank_correlation import RankCorrelation, rank_correlation
from rtdyn.undefined import Undefined


def test_the_value_is_scipys_over_the_pairs_that_both_have() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=60), rng.integers(0, 5, 60).astype(float)
    x[3], y[7] = math.nan, math.nan
    found = rank_correlation(x, y)
    both = np.isfinite(x) & np.isfinite(y)
    assert isinstance(found, RankCorrelation) and found.pairs == 58
    assert found.value == pytest.approx(stats.spearmanr(x[both], y[both]).statistic)
    assert rank_correlation(x, np.exp(x)) == RankCorrelation(1.0, 1.0, 1.0, 59)


def test_the_interval_covers_as_it_says() -> None:
    rng, r, n = np.random.default_rng(1), 0.8, 100
    truth = 6 / math.pi * math.asin(r / 2)  # of normal pairs
    covered = 0
    for _ in range(1000):
        x, noise = rng.normal(size=(2, n))
        found = rank_correlation(x, r * x + math.sqrt(1 - r**2) * noise)
        assert isinstance(found, RankCorrelation)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_too_few_pairs_and_ties_throughout_have_no_correlation() -> None:
    few = rank_correlation(np.arange(9.0), np.arange(9.0))
    assert isinstance(few, Undefined) and "fewer than 10" in few.reason
    alike = rank_correlation(np.arange(20.0), np.zeros(20))
    assert alike == Undefined("all neurons rank alike")
