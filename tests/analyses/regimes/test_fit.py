"""The three-segment fit: planted curves, invariances, an independent fit, and what it must refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.kernels import huber
from rtdyn.analyses.regimes.fit import (
    HUBER,
    MIN_POINTS,
    MIN_SPAN,
    FixedBoundaries,
    ThreeSegments,
    axis_of,
    fit_curves,
    fit_ranks,
    fit_regimes,
    fit_sorted,
)
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import CENSORED, DECAY, PLATEAU, POWER_LAW
from rtdyn.undefined import Undefined


def planted(neurons: int, r1: int, r2: int, kappa: float, excess: float, decay: float) -> np.ndarray:
    """An influence curve with a flat top `excess` above the mean extended power law, in rank order."""
    x = np.log(np.arange(1, neurons + 1))
    log_a = -kappa * x
    weight = np.log((np.arange(1, r1 + 1) + 0.5) / (np.arange(1, r1 + 1) - 0.5))
    log_a[:r1] = np.average(log_a[:r1], weights=weight) + excess
    log_a[r2:] = -kappa * x[r2 - 1] - decay * (x[r2:] - x[r2 - 1])
    return np.exp(log_a)


@pytest.mark.slow
@pytest.mark.parametrize(("neurons", "r1", "r2"), [(512, 12, 150), (2048, 20, 600), (8192, 80, 2000)])
def test_a_planted_curve_is_recovered(neurons: int, r1: int, r2: int) -> None:
    curve = planted(neurons, r1, r2, kappa=0.6, excess=1.2, decay=3.0)
    fit = fit_regimes(curve, np.zeros(neurons)).fit
    assert isinstance(fit, ThreeSegments)
    assert abs(np.log(fit.r1 / r1)) <= 0.13 and abs(np.log(fit.r2 / r2)) <= 0.13
    assert fit.kappa == pytest.approx(0.6, abs=0.03)
    assert fit.beta == pytest.approx(0.0, abs=0.1)
    assert fit.decay_slope == pytest.approx(-3.0, abs=0.1)
    assert fit.plateau_slope == pytest.approx(0.0, abs=0.05)
    assert fit.excess == pytest.approx(1.2, abs=0.1) and fit.raised
    assert fit.gain_over_one > 0.9 and fit.gain_over_two > 0.5


def test_a_pure_power_law_has_no_excess_and_no_bend() -> None:
    fit = fit_regimes(np.arange(1, 1025) ** -0.8, np.zeros(1024)).fit
    assert isinstance(fit, ThreeSegments)
    assert fit.excess == pytest.approx(0, abs=1e-6)
    assert fit.kappa == pytest.approx(0.8, abs=1e-6)
    assert fit.decay_slope == pytest.approx(-0.8, abs=1e-6)


def test_a_flat_top_below_the_power_law_is_flattening() -> None:
    fit = fit_regimes(planted(1024, 20, 300, kappa=0.8, excess=-0.8, decay=3.0), np.zeros(1024)).fit
    assert isinstance(fit, ThreeSegments) and not fit.raised
    assert fit.excess == pytest.approx(-0.8, abs=0.15)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(1e-6, 1e6))
def test_scaling_influence_moves_only_the_level(seed: int, factor: float) -> None:
    values = np.abs(np.random.default_rng(seed).standard_normal(400))
    one, other = fit_regimes(values, np.zeros(400)), fit_regimes(values * factor, np.zeros(400))
    assert isinstance(one.fit, ThreeSegments) and isinstance(other.fit, ThreeSegments)
    assert (one.rank == other.rank).all() and (one.label == other.label).all()
    assert (one.fit.r1, one.fit.r2) == (other.fit.r1, other.fit.r2)
    for name in ("kappa", "plateau_slope", "decay_slope", "excess"):
        assert getattr(one.fit, name) == pytest.approx(getattr(other.fit, name), abs=1e-5)
    assert other.fit.beta - one.fit.beta == pytest.approx(np.log(factor), abs=1e-5)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000))
def test_permuting_neurons_permutes_ranks_and_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, order = rng.lognormal(size=300), rng.permutation(300)
    one, other = fit_regimes(values, np.zeros(300)), fit_regimes(values[order], np.zeros(300))
    assert (one.rank[order] == other.rank).all() and (one.label[order] == other.label).all()
    assert one.fit == other.fit


def test_labels_follow_ranks_and_sizes_add_up() -> None:
    values = np.random.default_rng(0).permutation(planted(1024, 20, 300, 0.6, 1.0, 3.0))
    uncertainty = np.full(1024, np.sort(values)[40])
    result = fit_regimes(values, uncertainty)
    assert isinstance(result.fit, ThreeSegments)
    counts = {label: int((result.label == label).sum()) for label in (PLATEAU, POWER_LAW, DECAY, CENSORED)}
    assert sum(counts.values()) == 1024
    assert counts[CENSORED] == result.censored == 41
    assert counts[PLATEAU] == result.fit.r1
    assert counts[POWER_LAW] == result.fit.r2 - result.fit.r1
    assert result.fit.last == 1024 - 41
    assert sorted(result.rank) == list(range(1, 1025))
    assert set(result.label[result.rank <= result.fit.r1]) == {PLATEAU}


def test_segments_are_wide_enough() -> None:
    for seed in range(10):
        fit = fit_regimes(np.random.default_rng(seed).exponential(size=512), np.zeros(512)).fit
        assert isinstance(fit, ThreeSegments)
        assert np.log(fit.r1) >= MIN_SPAN and fit.r1 >= 5
        assert np.log(fit.r2 / fit.r1) >= MIN_SPAN
        assert np.log(fit.last / fit.r2) >= MIN_SPAN


def huber_loss(residual: np.ndarray, weight: np.ndarray, threshold: float) -> float:
    size = np.abs(residual)
    return float((weight * np.where(size <= threshold, size**2 / 2, threshold * (size - threshold / 2))).sum())


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("scale", [0.5, 0.03, 1e-4])
def test_the_huber_fit_is_that_of_scipy(bent: bool, scale: float) -> None:
    rng = np.random.default_rng(4)
    ranks = np.arange(1, 401)
    axis = axis_of(ranks)
    assert not isinstance(axis, Undefined)
    x, weight = axis.x, axis.weight
    y = axis.binned(0.5 - 0.9 * np.log(ranks) + 0.05 * rng.standard_t(2, size=400))
    knot = 60 if bent else len(x)
    at = x[knot - 1]
    columns = [np.ones_like(x), x - at] + [np.maximum(x - at, 0)] * bent
    design = np.stack(columns, axis=1)
    c = np.zeros(3)
    loss = huber.huber(x, y, weight, 0, knot, len(x), at, c, HUBER * scale)
    start = np.linalg.lstsq(design, y, rcond=None)[0]
    for _ in range(3):
        best = optimize.minimize(
            lambda p: huber_loss(y - design @ p, weight, HUBER * scale) / scale,
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-12, "fatol": 1e-15, "maxiter": 4000, "maxfev": 4000},
        )
        start = best.x
    # with nearly every point an outlier the last steps are reweighting's, which are slow
    assert loss <= best.fun * scale * (1 + (1e-6 if scale > 1e-3 else 1e-4))
    assert loss == pytest.approx(best.fun * scale, rel=1e-3)
    assert loss == pytest.approx(huber_loss(y - design @ c[: design.shape[1]], weight, HUBER * scale), rel=1e-9)
    if scale > 1e-3:
        assert c[: design.shape[1]] == pytest.approx(best.x, abs=1e-4)


def by_hand(log_a: np.ndarray) -> tuple[int, int, float, float]:
    """r1, r2, κ and excess from the definition: every allowed pair of boundaries, least squares by numpy."""
    n = len(log_a)
    ranks = np.arange(1, n + 1)
    axis = axis_of(ranks)
    assert not isinstance(axis, Undefined)
    x, y, weight, last = axis.x, axis.binned(log_a), axis.weight, axis.last
    cuts = {int(np.searchsorted(last, np.exp(b) + 1e-9, side="right")) for b in np.arange(0, np.log(n), 0.125)}

    def design(i: int, j: int) -> np.ndarray:
        top = np.arange(len(x)) < i
        from_r2 = x - x[j - 1]
        return np.stack([top, top * x, ~top, ~top * from_r2, ~top * np.maximum(from_r2, 0)], axis=1).astype(float)

    def solve(i: int, j: int, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(w)[:, None]
        c = np.linalg.lstsq(design(i, j) * root, y * root[:, 0], rcond=None)[0]
        return c, y - design(i, j) @ c

    pairs = [
        (i, j)
        for i in cuts
        for j in cuts
        if all(
            b - a >= MIN_POINTS and np.log(last[b - 1] / (last[a - 1] if a else 1)) >= MIN_SPAN
            for a, b in ((0, i), (i, j), (j, len(x)))
        )
    ]
    assert set(pairs) == set(zip(axis.first.tolist(), axis.second.tolist(), strict=True))
    least = min((solve(i, j, weight)[1] for i, j in pairs), key=lambda r: (weight * r**2).sum())
    order = np.argsort(np.abs(least))
    median = np.abs(least)[order][np.searchsorted(np.cumsum(weight[order]), 0.5)]
    threshold = HUBER * 1.4826 * median
    fits = []
    for i, j in pairs:
        w = weight
        for _ in range(300):
            c, r = solve(i, j, w)
            again = weight * np.minimum(1, threshold / np.maximum(np.abs(r), 1e-300))
            if np.abs(again - w).max() < 1e-12:
                break
            w = again
        fits.append((huber_loss(r, weight, threshold), i, j, c))
    _, i, j, c = min(fits, key=lambda f: f[0])
    extended = c[2] + c[3] * (x[:i] - x[j - 1])
    return int(last[i - 1]), int(last[j - 1]), float(-c[3]), float(np.average(y[:i] - extended, weights=weight[:i]))


@pytest.mark.parametrize("seed", range(4))
def test_the_best_boundaries_are_those_of_a_search_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_a = -np.sort(-(rng.standard_normal(70) if seed % 2 else rng.standard_exponential(70)))
    r1, r2, kappa, excess = by_hand(log_a)
    fit = fit_ranks(np.arange(1, 71), log_a)
    assert isinstance(fit, ThreeSegments)
    assert (fit.r1, fit.r2) == (r1, r2)
    assert (fit.kappa, fit.excess) == pytest.approx((kappa, excess), abs=2e-4)


def drawn_curve(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks, some of them censored, and log A of a curve."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(60, 400))
    if kind == "exact":
        log_a = np.log(planted(count, 10, count // 4, 0.7, 1.0, 2.0))
    elif kind == "outliers":
        log_a = -np.log(np.arange(1, count + 1)) + rng.standard_t(1, count)
    elif kind == "ties":
        log_a = -np.sort(rng.integers(0, 6, count)).astype(float)
    else:
        log_a = -np.sort(-rng.standard_normal(count))
    ranks = np.sort(rng.permutation(np.arange(1, count + 1))[: count - int(rng.integers(0, 20))])
    return ranks, log_a[ranks - 1]


@pytest.mark.parametrize("kind", ["exact", "outliers", "ties", "normal"])
def test_boundaries_that_are_not_fitted_could_not_be_the_best(kind: str) -> None:
    for seed in range(8):
        ranks, log_a = drawn_curve(kind, seed)
        axis = axis_of(ranks)
        assert not isinstance(axis, Undefined)
        x, w, n, y = axis.x, axis.weight, len(axis.x), axis.binned(log_a)
        y = y - w @ y
        sums = np.zeros((n + 1, 6))
        sums[1:] = np.cumsum(w * np.stack([np.ones(n), x, x * x, y, x * y, y * y]), axis=1).T
        pairs = list(zip(axis.first.tolist(), axis.second.tolist(), strict=True))
        tops, rests = np.zeros((n, 3)), np.zeros((len(pairs), 3))
        start = huber.squares(x, axis.first, axis.second, sums, tops, rests)
        for limit in (1e-3, 0.1, 1.0):
            loss = partial(least_loss, x, y, w, sums, limit)
            of_pairs = [loss(0, i, i, 0.0) + loss(i, j, n, x[j - 1]) for i, j in pairs]
            jumps = [loss(0, cut, cut, 0.0) + loss(cut, n, n, 0.0) for cut in axis.inside]
            bends = [loss(0, cut, n, x[cut - 1]) for cut in axis.inside]
            top = np.full(n, -1.0)
            best, least = huber.robust(x, y, w, axis.first, axis.second, tops.copy(), rests.copy(), limit, start, top)
            one, two = huber.fewer(x, y, w, axis.inside, sums, limit, top, axis.first[best])
            close = partial(pytest.approx, rel=1e-9, abs=1e-15)
            assert (least, of_pairs[best]) == close((min(of_pairs),) * 2)
            assert (one, two) == close((loss(0, n, n, 0.0), min(jumps)))
            # a bent line is two lines that happen to meet
            assert two <= min(bends) * (1 + 1e-3) + 1e-15


def least_loss(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, sums: np.ndarray, limit: float, start: int, knot: int, stop: int,
    at: float,
) -> float:  # fmt: skip
    """The Huber loss of one piece, fitted by itself."""
    c = np.zeros(3)
    huber.least_squares(sums, start, knot, stop, at, c)
    return float(huber.huber(x, y, w, start, knot, stop, at, c, limit))


def test_many_curves_are_fitted_as_one_by_one() -> None:
    rng = np.random.default_rng(2)
    values = rng.lognormal(size=(6, 256))
    values[4] = 0
    uncertainty = np.quantile(values, 0.1, axis=1, keepdims=True) * np.ones(256)
    together = fit_curves(values, uncertainty)
    for row, fit in enumerate(together):
        alone = fit_regimes(values[row], uncertainty[row])
        assert fit == alone.fit
    assert isinstance(together[4], Undefined)
    log_a = -np.sort(-rng.standard_normal((5, 300)), axis=1)
    assert fit_sorted(log_a) == [fit_ranks(np.arange(1, 301), row) for row in log_a]
    assert fit_sorted(log_a[:2, :9]) == [Undefined("9 uncensored neurons, under 15")] * 2


def test_tied_neurons_are_ranked_in_their_order() -> None:
    values = np.repeat([4.0, 2.0, 1.0, 0.5], 64)
    result = fit_regimes(values, np.zeros(256))
    assert (result.rank == np.arange(1, 257)).all()
    assert isinstance(result.fit, ThreeSegments) and np.isfinite(result.fit.excess)


def test_weights_are_uniform_in_log_rank() -> None:
    axis = axis_of(np.arange(1, 5001))
    assert not isinstance(axis, Undefined)
    x, weight = axis.x, axis.weight
    assert weight.sum() == pytest.approx(1)
    assert axis.last[-1] == 5000 and len(x) < 500
    lower = weight[x < np.log(50)].sum() / (np.log(50) - np.log(0.5))
    upper = weight[x >= np.log(50)].sum() / (np.log(5000.5) - np.log(50))
    assert lower == pytest.approx(upper, rel=0.02)


def test_too_few_neurons_and_equal_influence_are_not_called_regimes() -> None:
    few = fit_regimes(np.linspace(1, 2, 10), np.zeros(10))
    assert isinstance(few.fit, Undefined) and "under 15" in few.fit.reason and set(few.label) == {""}
    zero = fit_regimes(np.zeros(512), np.zeros(512))
    assert isinstance(zero.fit, Undefined) and zero.censored == 512
    narrow = fit_ranks(np.arange(100, 120), np.linspace(0, -1, 20))
    assert isinstance(narrow, Undefined) and "log units" in narrow.reason
    flat = fit_regimes(np.ones(512), np.zeros(512)).fit
    assert (
        isinstance(flat, ThreeSegments)
        and flat.excess == pytest.approx(0, abs=1e-9)
        and flat.gain_over_one == pytest.approx(0)
    )


def test_paper_code_boundaries_and_reference_line() -> None:
    values = np.arange(1, 513) ** -0.7
    paper = fit_regimes(values, np.zeros(512)).paper_code
    assert isinstance(paper, FixedBoundaries)
    assert (paper.r1, paper.r2) == (33, 244)
    slope, intercept = np.polyfit(np.log(np.arange(1, 513)), np.log(values), 1)
    assert (paper.slope, paper.intercept) == pytest.approx((slope, intercept))
    assert paper.plateau_deviation == pytest.approx(0, abs=1e-9)
    few = fit_regimes(values[:100], np.zeros(100)).paper_code
    assert few == Undefined("too few uncensored neurons for the fixed boundaries")


@pytest.mark.parametrize("step", [1, 512, 4000])
def test_real_checkpoints_are_fitted(step: int, captured: Callable[[int], Capture]) -> None:
    result = influence(captured(step), torch.full((2560,), -1), 1)
    for c in result.classes.values():
        regimes = fit_regimes(c.mean_abs.numpy(), (2 * c.mean_abs_se + c.error_bound).numpy())
        assert isinstance(regimes.fit, ThreeSegments), regimes.fit
        assert 0 < regimes.fit.gain_over_one <= 1
        assert regimes.fit.decay_slope < -regimes.fit.kappa < 0
