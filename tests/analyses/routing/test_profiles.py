"""Attention profiles: class means by offset, planted cases and the null."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from analyses.routing.captures import (
    attention_capture,
    random_attention,
)
from scipy import stats

from rtdyn.analyses.routing.differences import class_differences
from rtdyn.analyses.routing.matching import matched_positions
from rtdyn.analyses.routing.profiles import Correlation, MeanAttention, attention_profiles
from rtdyn.analyses.statistics import Comparison
from rtdyn.undefined import Undefined


def test_profiles_are_class_means_by_offset() -> None:
    rng = np.random.default_rng(5)
    attention, query, rare = random_attention(rng)
    captured = attention_capture(attention, query, rare)
    own = captured.positions.members("rare")
    profiles = attention_profiles(captured, rng, offsets=8, draws=99)
    assert [p.layer for p in profiles] == [0, 1] and captured.attention is not None
    attention, query = captured.attention.double().numpy(), captured.positions.query
    assert profiles[0].n == own.sum()  # there are twice as many common ones in every stratum
    for layer, p in enumerate(profiles):
        mean = p.attention
        assert isinstance(mean, MeanAttention) and isinstance(p.with_bos, Correlation)
        for head in range(2):
            rows = [[a[0], *a[q::-1][:8]] for a, q in zip(attention[own, layer, head], query[own], strict=True)]
            np.testing.assert_allclose(mean.rare[head], np.mean(rows, axis=0))
            for first, r in enumerate((p.with_bos, p.without_bos)):
                assert isinstance(r, Correlation)
                expected = np.corrcoef(mean.rare[head, first:], mean.common[head, first:])[0, 1]
                np.testing.assert_allclose(r.by_head[head], expected)
        assert p.with_bos.sd is not None
        np.testing.assert_allclose([p.with_bos.mean, p.with_bos.sd], [r(p.with_bos.by_head) for r in (np.mean, np.std)]
                                   * np.array([1, np.sqrt(2)]))  # fmt: skip


def test_a_seed_fixes_the_draws_of_common_queries() -> None:
    captured = attention_capture(*random_attention(np.random.default_rng(7)))
    first, again, other = (attention_profiles(captured, np.random.default_rng(s), offsets=8)[0] for s in (7, 7, 8))
    np.testing.assert_equal(asdict(first), asdict(again))
    assert isinstance(first.attention, MeanAttention) and isinstance(other.attention, MeanAttention)
    np.testing.assert_array_equal(first.attention.rare, other.attention.rare)  # every rare query has its match
    assert not np.array_equal(first.attention.common, other.attention.common)


def test_profiles_and_their_null_are_of_one_size_where_common_queries_are_scarce() -> None:
    rng = np.random.default_rng(6)
    attention, query, _ = random_attention(rng)
    captured = attention_capture(attention, query, rng.random(300) < 0.5)
    own, strata = captured.positions.members("rare"), captured.positions.query // 4
    rare, common = (np.bincount(strata[rows], minlength=6) for rows in (own, ~own))
    profile = attention_profiles(captured, rng, stratum=4, offsets=8, draws=99)[0]
    assert profile.n == np.minimum(rare, common // 2).sum() < own.sum()
    assert isinstance(profile.with_bos, Correlation) and isinstance(profile.with_bos.null, Comparison)
    assert abs(profile.with_bos.mean - profile.with_bos.null.null_mean) < 4 * profile.with_bos.null.null_sd


@pytest.mark.slow
def test_profile_p_values_are_uniform_where_classes_attend_alike() -> None:
    rng, draws = np.random.default_rng(2), 120
    p = []
    for _ in range(draws):
        attention, query, rare = random_attention(rng)
        first, _ = attention_profiles(attention_capture(attention, query, rare), rng, offsets=8, draws=99)
        assert isinstance(first.without_bos, Correlation) and isinstance(first.without_bos.null, Comparison)
        p.append(first.without_bos.null.p_value)
    assert stats.kstest(p, "uniform").statistic < 1.95 / np.sqrt(draws)  # the critical value at 0.001


def test_rare_queries_that_look_elsewhere_are_found() -> None:
    rng = np.random.default_rng(3)
    attention, query, rare = random_attention(rng)
    elsewhere = np.flatnonzero(rare)
    attention[elsewhere, 0, 0, query[elsewhere] - 5] += 1.0
    attention /= attention.sum(-1, keepdims=True)
    first, second = attention_profiles(attention_capture(attention, query, rare), rng, offsets=8)
    assert isinstance(first.without_bos, Correlation) and isinstance(second.without_bos, Correlation)
    assert isinstance(first.attention, MeanAttention)
    assert first.attention.rare[0, 1:].argmax() == 5 and first.without_bos.by_head[0] < 0.5
    planted, other = first.without_bos.null_by_head[0], second.without_bos.null
    assert isinstance(planted, Comparison) and planted.p_value == 0.01
    assert isinstance(other, Comparison) and other.p_value > 0.05
    assert planted.null_mean > 0.5
    captured = attention_capture(attention, query, rare)
    differences, _ = class_differences(captured, matched_positions(captured.positions, rng, stratum=4), rng, stratum=4)
    assert differences[0].p_value[0] == 0.001 and differences[0].difference[0] > 0.1
    assert differences[1].p_value[0] > 0.01


def test_attention_without_a_shape_gives_reasons() -> None:
    rng = np.random.default_rng(4)
    attention, query, rare = random_attention(rng)
    flat = np.where(np.arange(24) <= query[:, None], 1.0, 0.0)[:, None, None]
    flat = np.broadcast_to(flat / flat.sum(-1, keepdims=True), attention.shape)
    captured = attention_capture(flat, query, rare)
    (p, _) = attention_profiles(captured, rng, offsets=8)
    assert isinstance(p.attention, MeanAttention)
    assert p.without_bos == Undefined("every head's profile is constant")
    matched = matched_positions(captured.positions, rng)
    (even, _), _ = class_differences(captured, matched, rng)
    np.testing.assert_allclose(even.rare, 0, atol=1e-6)
    nothing = attention_capture(np.zeros_like(attention), query, rare)
    (dark, _), _ = class_differences(nothing, matched, rng)
    assert dark.reason == "a query's attention is 0 everywhere" and np.isnan(dark.p_value).all()
    (short, _) = attention_profiles(captured, rng, offsets=24)
    assert isinstance(short.with_bos, Undefined) and short.with_bos.reason.startswith("0 queries of each class")
    assert short.attention == short.without_bos == short.with_bos
    nobody = attention_capture(attention, query, np.zeros(300, dtype=bool))
    (lonely, _), _ = class_differences(nobody, matched_positions(nobody.positions, rng), rng)
    assert lonely.reason == "no rare position has a match"
