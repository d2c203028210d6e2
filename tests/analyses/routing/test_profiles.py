"""Attention profiles: class means by offset, r without noise, planted cases, coverage and the null."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analyses.routing.captures import NO_PSEUDO, attention_capture, random_attention
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.regimes.contrast import contrast
from rtdyn.analyses.routing.differences import class_differences
from rtdyn.analyses.routing.profiles import Correlation, MeanAttention, Profiles, attention_profiles
from rtdyn.analyses.routing.reference import PseudoSets, Reference, reference
from rtdyn.analyses.statistics import Comparison, Estimate
from rtdyn.capture.forward_pass import Capture
from rtdyn.text.pseudo_classes import overlap, pseudo_classes
from rtdyn.undefined import Undefined

OFFSETS, LENGTH = 8, 24
FEW = 0.1
"""Share of rare positions at which pseudo-classes have few in common."""


def pseudo_sets(captured: Capture, draws: int = 99) -> PseudoSets:
    members = pseudo_classes(captured.positions, draws=draws)
    assert not isinstance(members, Undefined), members
    return PseudoSets(members, overlap(members))


def beside_of(captured: Capture, pseudo: PseudoSets | None = None, cluster: np.ndarray | None = None) -> Reference:
    windows = np.arange(captured.positions.window.max() + 1)
    return reference(captured.positions, windows if cluster is None else cluster, pseudo, least_query=OFFSETS)


def profiles_of(captured: Capture, pseudo: PseudoSets | None = None) -> tuple[Profiles, ...]:
    return attention_profiles(captured, beside_of(captured, pseudo), NO_PSEUDO if pseudo is None else pseudo, OFFSETS)


def correlation(r: Correlation | Undefined) -> Correlation:
    assert isinstance(r, Correlation), r
    return r


def values_by_hand(captured: Capture, layer: int, head: int) -> np.ndarray:
    """(N, 1 + offsets): attention to key 0, then to the query itself and back."""
    assert captured.attention is not None
    attention = captured.attention.double().numpy()[:, layer, head]
    return np.array([[a[0], *a[q::-1][:OFFSETS]] for a, q in zip(attention, captured.positions.query, strict=True)])


def test_profiles_are_class_means_by_offset_at_the_same_places() -> None:
    captured = attention_capture(*random_attention(np.random.default_rng(5), share=FEW))
    pseudo = pseudo_sets(captured, draws=30)
    beside, profiles = beside_of(captured, pseudo), profiles_of(captured, pseudo)
    own = captured.positions.members("rare")
    assert [p.layer for p in profiles] == [0, 1] and {p.n for p in profiles} == {own.sum()}
    for layer, p in enumerate(profiles):
        mean = p.attention
        assert isinstance(mean, MeanAttention)
        for head in range(2):
            values = values_by_hand(captured, layer, head)
            np.testing.assert_allclose(mean.rare[head], values[own].mean(0))
            np.testing.assert_allclose(mean.common[head], beside.common[0] @ values[beside.rows])
            drawn = np.array([values[members].mean(0) for members in pseudo.members])
            low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
            np.testing.assert_allclose([mean.common_low[head], mean.common_high[head]], [low, high])
            for first, r in enumerate(map(correlation, (p.with_bos, p.without_bos))):
                expected = np.corrcoef(mean.rare[head, first:], mean.common[head, first:])[0, 1]
                np.testing.assert_allclose(r.plain_by_head[head], expected)
                others = beside.common[1:] @ values[beside.rows]
                null = [np.corrcoef(a[first:], b[first:])[0, 1] for a, b in zip(drawn, others, strict=True)]
                against, by_hand = r.null_by_head[head], contrast(expected, np.array(null), pseudo.overlap)
                assert isinstance(against, Comparison) and isinstance(by_hand, Comparison)
                np.testing.assert_allclose(
                    [against.null_mean, against.null_sd, against.p_value],
                    [by_hand.null_mean, by_hand.null_sd, by_hand.p_value],
                )
    r = correlation(profiles[0].with_bos)
    assert isinstance(r.mean, Estimate) and r.sd is not None and isinstance(r.null, Comparison)
    np.testing.assert_allclose([r.mean.value, r.sd], [min(r.by_head.mean(), 1.0), r.by_head.std(ddof=1)])
    np.testing.assert_allclose(r.plain_mean, r.plain_by_head.mean())


def without_noise(x: np.ndarray, y: np.ndarray, covariance: np.ndarray, times: float = 1.0) -> float:
    """Spearman's r: covariance (2, 2, o, o) of the errors of x (o,) and y (o,), whose centred traces are taken out."""
    centring = np.eye(len(x)) - 1 / len(x)
    found = {}
    for name, (a, b), (i, j) in (("xy", (x, y), (0, 1)), ("xx", (x, x), (0, 0)), ("yy", (y, y), (1, 1))):
        found[name] = a @ centring @ b - times * float(np.trace(centring @ covariance[i, j]))
    return float(found["xy"] / np.sqrt(found["xx"] * found["yy"]))


def mended(x: np.ndarray, y: np.ndarray, covariance: np.ndarray) -> float:
    """Spearman's r less its average error: half the sum of r's second derivatives, by steps, times the covariances."""
    centring = np.eye(len(x)) - 1 / len(x)
    sums = np.array([a @ centring @ b for a, b in ((x, y), (x, x), (y, y))])
    slopes = np.zeros((3, 2, len(x)))
    slopes[0], slopes[1, 0], slopes[2, 1] = (centring @ y, centring @ x), 2 * centring @ x, 2 * centring @ y
    of_sums = np.einsum("aio,ijop,bjp->ab", slopes, covariance, slopes)

    def ratio(moved: np.ndarray) -> float:
        return float(moved[0] / np.sqrt(moved[1] * moved[2]))

    steps = np.diag(1e-4 * sums[[1, 1, 2]])
    error = 0.0
    for i in range(3):
        for j in range(3):
            corners = [(s * t, ratio(sums + s * steps[i] + t * steps[j])) for s in (1, -1) for t in (1, -1)]
            error += sum(s * r for s, r in corners) / (4 * steps[i, i] * steps[j, j]) * of_sums[i, j] / 2
    return without_noise(x, y, covariance) - error


def test_r_without_noise_and_its_interval_are_those_of_covariance_matrices_and_loops() -> None:
    captured = attention_capture(*random_attention(np.random.default_rng(8), n=400))
    cluster = np.arange(40) // 2
    beside = beside_of(captured, cluster=cluster)
    (first, _) = attention_profiles(captured, beside, NO_PSEUDO, OFFSETS)
    r, g = correlation(first.without_bos), beside.clusters
    held = np.unique(beside.cluster[beside.own[0] > 0])
    assert g == len(held) > 15 and r.null == NO_PSEUDO and set(r.null_by_head) == {NO_PSEUDO}
    by_head, left = [], []
    for head in range(2):
        values = values_by_hand(captured, 0, head)[beside.rows][:, 1:]
        x, y = beside.own[0] @ values, beside.common[0] @ values
        residuals = np.stack(beside.residuals(values, x, y))
        covariance = np.einsum("igo,jgp->ijop", residuals, residuals) * g / (g - 1)
        by_head.append(mended(x, y, covariance))
        left.append(
            [
                without_noise(own @ values, common @ values, covariance, g / (g - 1))
                for own, common in map(beside.without, held.tolist())
            ]
        )
    np.testing.assert_allclose(r.by_head, by_head, rtol=1e-5)
    assert (r.by_head > r.plain_by_head).all()
    without = np.mean(left, axis=0)
    se = np.sqrt(((without - without.mean()) ** 2).sum() * (g - 1) / g)
    assert isinstance(r.mean, Estimate) and r.mean.low is not None and r.mean.clusters == g
    reach = stats.t.ppf(0.975, g - 1) * se
    ends = np.clip([np.mean(by_head) - reach, np.mean(by_head) + reach], -1, 1)
    np.testing.assert_allclose([r.mean.low, r.mean.high], ends)


def planted(rng: np.random.Generator, r: float, noise: float, heads: int = 4) -> Capture:
    """60 windows, about 200 rare queries, heads whose true profiles correlate at r; windows share a part of noise."""
    windows, per = 60, 20
    first, second = rng.standard_normal((2, heads, 1 + OFFSETS))
    first, second = (v - v.mean(1, keepdims=True) for v in (first, second))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second -= (second * first).sum(1, keepdims=True) * first
    second *= np.sqrt(1 - r**2) / np.linalg.norm(second, axis=1, keepdims=True)
    query = np.concatenate([rng.choice(np.arange(OFFSETS, 40), per, replace=False) for _ in range(windows)])
    window, rare = np.repeat(np.arange(windows), per), rng.random(windows * per) < 1 / 6
    truth = np.where(rare[:, None, None], first, r * first + second)
    shared = rng.standard_normal((windows, *truth.shape[1:]))[window]
    profile = truth + noise * (0.5 * shared + 0.75**0.5 * rng.standard_normal(truth.shape))
    attention = np.zeros((len(query), 1, heads, 40))
    attention[:, 0, :, 0] = profile[..., 0]
    for k in range(OFFSETS):
        attention[np.arange(len(query)), 0, :, query - k] = profile[..., 1 + k]
    return attention_capture(attention, query, rare, per)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.9, 0.5, 0.0])
def test_a_planted_r_is_found_and_covered_where_noise_lowers_the_plain_one(truth: float) -> None:
    rng = np.random.default_rng(0)
    found, plain, covered = [], [], []
    for _ in range(150):
        r = correlation(profiles_of(planted(rng, truth, 1.6))[0].with_bos)
        assert isinstance(r.mean, Estimate) and r.mean.low is not None and r.mean.high is not None
        found.append(r.mean.value)
        plain.append(r.plain_mean)
        covered.append(r.mean.low <= truth <= r.mean.high)
    # noise that both classes share lets a ratio err by a little, far under its standard error
    assert abs(np.mean(found) - truth) < 0.4 * np.std(found)
    if truth == 0.9:
        assert abs(np.mean(found) - truth) < 0.012 and np.mean(plain) < truth - 0.03
    assert 0.91 <= np.mean(covered) <= 0.99


def test_noise_that_makes_whole_profiles_larger_leaves_r() -> None:
    found, rng = [], np.random.default_rng(0)
    for _ in range(40):
        captured = planted(rng, 0.99, 0.05)
        assert captured.attention is not None
        # a window's rare queries attend more or less to all keys alike, which moves no profile's shape
        larger = np.exp(rng.standard_normal(60))[captured.positions.window]
        larger[~captured.positions.members("rare")] = 1.0
        attention = captured.attention * torch.from_numpy(larger).to(captured.attention.dtype)[:, None, None, None]
        r = correlation(profiles_of(replace(captured, attention=attention))[0].with_bos)
        found.append(float(r.by_head.mean()))
    # 1.003 where the noise of the size is taken out as if it lowered r
    assert abs(np.mean(found) - 0.99) < 0.003


def test_noise_that_hides_every_profile_is_said() -> None:
    r = correlation(profiles_of(planted(np.random.default_rng(0), 0.9, 60.0))[0].with_bos)
    assert r.mean == Undefined("noise hides every head's profile; more rare positions would show it")
    assert np.isnan(r.by_head).all() and np.isfinite(r.plain_by_head).all() and r.sd is None
    assert np.isfinite(r.plain_mean)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), factor=st.floats(0.1, 10), shift=st.floats(-1, 1))
def test_correlations_ignore_the_scale_and_the_order_of_heads(seed: int, factor: float, shift: float) -> None:
    captured = planted(np.random.default_rng(seed), 0.9, 1.6)
    assert captured.attention is not None
    moved = replace(captured, attention=(captured.attention * factor + shift).flip(2))
    one, other = (correlation(profiles_of(c)[0].with_bos) for c in (captured, moved))
    np.testing.assert_allclose(other.by_head[::-1], one.by_head, rtol=1e-3)
    assert isinstance(one.mean, Estimate) and isinstance(other.mean, Estimate) and one.mean.low is not None
    assert (other.mean.value, other.mean.low) == pytest.approx((one.mean.value, one.mean.low), rel=1e-2)


@pytest.mark.slow
def test_profile_p_values_keep_their_level_where_classes_attend_alike() -> None:
    """Heads are replicates; p errs to the safe side, as that of differences does."""
    p = []
    for seed in range(4):
        captured = attention_capture(*random_attention(np.random.default_rng(seed), n=600, heads=60, share=FEW))
        first, _ = profiles_of(captured, pseudo_sets(captured))
        against = correlation(first.without_bos).null_by_head
        p += [a.p_value for a in against if isinstance(a, Comparison)]
    assert len(p) == 240
    assert stats.binomtest(int((np.array(p) <= 0.05).sum()), 240, 0.05, alternative="greater").pvalue > 0.01
    assert stats.binomtest(int((np.array(p) <= 0.5).sum()), 240, 0.5, alternative="greater").pvalue > 0.01
    assert stats.kstest(p, "uniform").statistic < 0.15


def test_rare_queries_that_look_elsewhere_are_found() -> None:
    attention, query, rare = random_attention(np.random.default_rng(3), n=400, share=FEW)
    elsewhere = np.flatnonzero(rare)
    attention[elsewhere, 0, 0, query[elsewhere] - 5] += 1.0
    attention /= attention.sum(-1, keepdims=True)
    captured = attention_capture(attention, query, rare)
    pseudo = pseudo_sets(captured, draws=199)
    first, second = (correlation(p.without_bos) for p in profiles_of(captured, pseudo))
    mean = profiles_of(captured, pseudo)[0].attention
    assert isinstance(mean, MeanAttention)
    assert mean.rare[0, 1:].argmax() == 5 and first.by_head[0] < 0.5 < second.by_head[0]
    planted_null, other = first.null_by_head[0], second.null
    assert isinstance(planted_null, Comparison) and planted_null.p_value == 0.01
    assert isinstance(other, Comparison) and other.p_value > 0.05
    assert planted_null.null_mean > 0.5
    whole = reference(captured.positions, np.arange(40), pseudo)
    differences, _ = class_differences(captured, whole, pseudo)
    found, alike = differences[0].against[0], differences[1].against[0]
    assert isinstance(found, Comparison) and found.p_value == 0.01 and differences[0].difference[0] > 0.1
    assert isinstance(alike, Comparison) and alike.p_value > 0.01


def test_gini_and_first_key_are_measured_in_chunks_as_at_once() -> None:
    captured = attention_capture(*random_attention(np.random.default_rng(2)))
    beside = reference(captured.positions, np.arange(30), None)
    at_once, in_chunks = (class_differences(captured, beside, NO_PSEUDO, m) for m in (2**30, 32 * 2 * 2 * 24 * 7))
    for one, other in zip((*at_once[0], *at_once[1]), (*in_chunks[0], *in_chunks[1]), strict=True):
        np.testing.assert_array_equal(one.difference, other.difference)
        np.testing.assert_array_equal(one.se, other.se)
        np.testing.assert_allclose(one.difference[-1], one.difference[:-1].mean())
    assert captured.attention is not None
    first_key = captured.attention[:, 0, 0, 0].double().numpy()[beside.rows]
    np.testing.assert_allclose(at_once[1][0].rare[0], beside.own[0] @ first_key)


def test_attention_without_a_shape_gives_reasons() -> None:
    attention, query, rare = random_attention(np.random.default_rng(4))
    flat = np.where(np.arange(LENGTH) <= query[:, None], 1.0, 0.0)[:, None, None]
    flat = np.broadcast_to(flat / flat.sum(-1, keepdims=True), attention.shape)
    captured = attention_capture(flat, query, rare)
    (p, _) = profiles_of(captured)
    assert isinstance(p.attention, MeanAttention) and np.isnan(p.attention.common_low).all()
    assert p.without_bos == Undefined("every head's profile is constant")
    whole = reference(captured.positions, np.arange(30), None)
    (even, _), _ = class_differences(captured, whole, NO_PSEUDO)
    np.testing.assert_allclose(even.rare, 0, atol=1e-6)
    nothing = attention_capture(np.zeros_like(attention), query, rare)
    (dark, _), _ = class_differences(nothing, whole, NO_PSEUDO)
    assert set(dark.against) == {Undefined("a query's attention is 0 everywhere")}
    one_flat = attention.copy()
    one_flat[:, 0, 1] = flat[:, 0, 0]
    (half, _) = profiles_of(attention_capture(one_flat, query, rare))
    r = correlation(half.without_bos)
    assert np.isnan([r.by_head[1], r.plain_by_head[1]]).all() and np.isfinite(r.by_head[0]) and r.sd is None
    assert r.null_by_head[1] == Undefined("the head's profile is constant")
    assert (
        isinstance(r.mean, Estimate) and r.mean.value == min(r.by_head[0], 1.0) and r.plain_mean == r.plain_by_head[0]
    )


def test_too_few_queries_or_pieces_of_text_are_reasons() -> None:
    attention, query, rare = random_attention(np.random.default_rng(4))
    captured = attention_capture(attention, query, rare)
    beside = reference(captured.positions, np.arange(30), None, least_query=LENGTH)
    (short, _) = attention_profiles(captured, beside, NO_PSEUDO, LENGTH)
    assert short.with_bos == Undefined("0 rare queries at position 24 or later with common ones, under 10")
    assert short.attention == short.without_bos == short.with_bos and short.n == 0
    five = beside_of(captured, cluster=np.arange(30) // 6)
    (few, _) = attention_profiles(captured, five, NO_PSEUDO, OFFSETS)
    assert few.with_bos == Undefined("the rare queries lie in 5 independent pieces of text, under 6")
    six = beside_of(captured, cluster=np.arange(30) // 5)
    assert isinstance(attention_profiles(captured, six, NO_PSEUDO, OFFSETS)[0].with_bos, Correlation)
    nobody = attention_capture(attention, query, np.zeros(300, dtype=bool))
    lonely = class_differences(nobody, reference(nobody.positions, np.arange(30), None), NO_PSEUDO)[0][0]
    assert set(lonely.against) == {Undefined("no rare position has a common one at its place")}
    for missing in (replace(captured, attention=None),):
        with pytest.raises(ValueError, match="without attention"):
            attention_profiles(missing, beside, NO_PSEUDO, OFFSETS)
