"""Summaries of influence and of the loss against the numbers they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from analyses.influence.test_ablation import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from rtdyn.analyses.influence.ablation import ClassInfluence, Influence, influence
from rtdyn.analyses.influence.losses import ALL, mean_losses
from rtdyn.analyses.influence.signs import signs_of
from rtdyn.analyses.influence.summary import summarise
from rtdyn.analyses.statistics import Estimate
from rtdyn.capture.forward_pass import Capture
from rtdyn.undefined import Undefined

NOWHERE = torch.full((30,), -1)


def influence_of(c: ClassInfluence) -> Influence:
    return Influence({"rare": c}, None, 0.0)


def planted(window_sums: np.ndarray, seed: int = 0) -> ClassInfluence:
    """A class whose windows, one position and one cluster each, have these Σ |Δ| (w, F)."""
    sums = torch.from_numpy(window_sums)
    c = influence(synthetic(seed, n=len(sums)), NOWHERE, 1).classes["rare"]
    w = torch.arange(len(sums))
    return replace(c, n=len(sums), clusters=len(sums), window_ids=w, window_cluster=w, window_n=torch.ones_like(w),
                   window_abs_sum=sums, mean_abs=sums.mean(0))  # fmt: skip


def assert_hall(mean: Estimate, residuals: np.ndarray, n: np.ndarray, se: float) -> None:
    """Each end of the interval solves Hall's transformation of t, with the skewness of the clusters' means.

    residuals: (g,), of sums over n (g,) positions.
    """
    g, w, of_means = len(residuals), n / n.sum(), residuals / n
    a = (w * of_means**3).sum() / (w * of_means**2).sum() ** 1.5 * (w**3).sum() / (w**2).sum() ** 1.5
    quantile = stats.t.ppf(0.975, g - 1)
    # no farther than to where the derivative of the farther end by the quantile is 4
    a = float(
        np.clip(a, *(sign * optimize.brentq(lambda x: 1 - x * (quantile + x / 6) - 1 / 8, 0, 9) for sign in (-1, 1)))
    )
    assert mean.low is not None and mean.high is not None
    for end, reach in ((mean.low, 1), (mean.high, -1)):
        t = (mean.value - end) / se
        assert t + a * (t**2 / 3 + 1 / 6) + a**2 * t**3 / 27 == pytest.approx(reach * quantile)


def test_summary_is_that_of_the_neurons_influence() -> None:
    one = synthetic(seed=0, n=60, f=250)
    one = replace(one, positions=replace(one.positions, window=np.arange(60) // 3))
    c = influence(one, NOWHERE, 1, cluster=np.arange(20) // 2).classes["rare"]
    c.mean[:3] = torch.tensor([9.0, -9.0, -9.0])
    result = influence_of(c)
    summary = summarise(result, 0)["rare"]
    assert isinstance(summary.mean, Estimate) and isinstance(summary.largest, Estimate)
    assert isinstance(summary.top_share, Estimate)
    values = c.mean_abs.numpy()
    assert summary.n == 60
    assert summary.mean.value == pytest.approx(values.mean())
    assert {e.clusters for e in (summary.mean, summary.largest, summary.top_share)} == {c.clusters} == {10}
    by_cluster = np.array([c.window_abs_sum[c.window_cluster == k].sum(0).mean() for k in range(c.clusters)])
    n = np.array([c.window_n[c.window_cluster == k].sum() for k in range(c.clusters)])
    se = np.sqrt(((by_cluster - n * values.mean()) ** 2).sum() * c.clusters / (c.clusters - 1)) / 60
    assert_hall(summary.mean, by_cluster - n * values.mean(), n, se)
    # the plain ones have the winner's curse
    assert 0.5 * values.max() < summary.largest.value < values.max()
    plain_share = np.sort(values)[-3:].sum() / values.sum()
    assert 0.5 * plain_share < summary.top_share.value < plain_share
    assert (summary.boosting, summary.suppressing) == (1, 2) and signs_of(c)[:3].tolist() == [1, -1, -1]
    assert summary.error_bound == float(c.error_bound.max())
    again, other = summarise(result, 0)["rare"], summarise(result, 1)["rare"]
    assert again == summary and isinstance(other.largest, Estimate)
    assert other.largest != summary.largest and other.largest.value == pytest.approx(summary.largest.value, rel=0.05)


@pytest.mark.slow
def test_the_largest_and_the_share_of_the_top_are_covered_where_the_plain_ones_are_cursed() -> None:
    rng, truth = np.random.default_rng(0), np.exp(-0.25 * np.log(np.arange(1, 201)))
    share = truth[:2].sum() / truth.sum()
    covered, errors = [], []
    for k in range(200):
        noise = np.exp(0.8 * rng.standard_normal((40, 200)) - 0.32)
        c = planted(truth * noise)
        summary = summarise(influence_of(c), k)["rare"]
        plain = c.mean_abs.numpy()
        for found, true, cursed in (
            (summary.largest, 1.0, plain.max()),
            (summary.top_share, share, np.sort(plain)[-2:].sum() / plain.sum()),
        ):
            assert isinstance(found, Estimate) and found.low is not None and found.high is not None
            covered.append(found.low <= true <= found.high)
            errors.append((found.value / true - 1, cursed / true - 1))
    for kind in (0, 1):
        assert 0.9 <= np.mean(covered[kind::2]) <= 0.99
        corrected_error, curse = np.mean(errors[kind::2], axis=0)
        assert curse > 0.02 and abs(corrected_error) < curse / 2


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), factor=st.floats(1e-3, 1e3))
def test_a_summary_scales_with_influence_and_forgets_the_order_of_neurons(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    sums = rng.lognormal(size=(20, 30))
    one, other = (summarise(influence_of(planted(s)), 0)["rare"] for s in (sums, factor * sums[:, rng.permutation(30)]))
    for scale, a, b in ((factor, one.largest, other.largest), (1.0, one.top_share, other.top_share)):
        assert isinstance(a, Estimate) and isinstance(b, Estimate) and a.low is not None and b.low is not None
        np.testing.assert_allclose([b.value, b.low, b.high], scale * np.array([a.value, a.low, a.high]), rtol=1e-6)


def test_few_clusters_leave_the_top_undefined() -> None:
    c = planted(np.random.default_rng(0).lognormal(size=(7, 30)))
    summary = summarise(influence_of(c), 0)["rare"]
    few = Undefined("the class lies in 7 independent pieces of text, under 8")
    assert summary.largest == summary.top_share == few
    assert isinstance(summary.mean, Estimate) and summary.mean.low is not None


def test_neurons_without_influence_have_no_top_share() -> None:
    one = synthetic(seed=0)
    one = replace(one, anatomy=replace(one.anatomy, output_rows=torch.zeros_like(one.anatomy.output_rows)))
    result = influence(one, NOWHERE, 1)
    summary = summarise(result, 0)["rare"]
    clusters = result.classes["rare"].clusters
    assert summary.mean == Estimate(0.0, 0.0, 0.0, clusters)
    assert summary.largest == Estimate(0.0, None, None, clusters)
    assert summary.top_share == Undefined("every neuron's influence is 0")
    assert summary.boosting == summary.suppressing == 0


def test_losses_are_means_with_clustered_intervals(captured: Callable[[int], Capture]) -> None:
    one = captured(512)
    cluster = np.arange(one.positions.window.max() + 1) // 3
    losses = mean_losses(one, 256, cluster)
    assert list(losses) == [ALL, *(c.name for c in one.positions.classes)]
    rare, members = losses["rare"], one.positions.members("rare")
    loss, pieces = one.measured_loss[members].double().numpy(), one.positions.window[members] // 3
    assert rare.n == len(loss) and rare.mean.value == pytest.approx(loss.mean())
    residuals = np.array([(loss[pieces == w] - loss.mean()).sum() for w in np.unique(pieces)])
    g = len(residuals)
    se = np.sqrt((residuals**2).sum() * g / (g - 1)) / len(loss)
    assert rare.mean.clusters == g
    assert_hall(rare.mean, residuals, np.unique(pieces, return_counts=True)[1], se)
    assert losses[ALL].n == len(one.loss) and losses[ALL].mean.value == pytest.approx(float(one.loss.double().mean()))
    assert losses[ALL].mean.clusters == len(np.unique(cluster[one.kept_flat // 256]))
    whole = mean_losses(one, 256, np.zeros_like(cluster))["rare"].mean
    assert (whole.value, whole.low, whole.high, whole.clusters) == (rare.mean.value, None, None, 1)
