"""Class means from a sample of pairs, against planted effects that are known in full."""

from __future__ import annotations

import numpy as np
import pytest

from rtdyn.analyses.earlier_layers.estimate import ClassMean, TextPieces, class_mean
from rtdyn.analyses.earlier_layers.sample import RERUNS, Budget, Sample, budget_of, draw_sample, inclusion

WINDOWS, NEURONS = 40, 400
REPEATS = 60


def planted(seed: int, windows: int = WINDOWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact and first-order sums, and Σ |Δ¹|: the first order is biased, errs with heavy tails, and misses some."""
    rng = np.random.default_rng(seed)
    strength = rng.lognormal(0, 1.5, NEURONS)
    exact = strength * rng.standard_t(4, (windows, NEURONS)) + 0.3 * strength
    first = 0.7 * exact + 0.4 * strength * rng.standard_t(4, exact.shape)
    first[:, ::7] = 0.0
    return exact, first, np.abs(first) * rng.uniform(1, 2, first.shape)


def text(windows: int = WINDOWS) -> TextPieces:
    return TextPieces(np.full(windows, 5), np.arange(windows) // 2, np.zeros((windows // 2, NEURONS)))


def estimated(
    exact: np.ndarray, first: np.ndarray, size: np.ndarray, seed: int, budget: Budget
) -> tuple[Sample, ClassMean]:
    sample = draw_sample(size, size.sum(0), budget, np.random.default_rng(seed))
    known = np.where(sample.run_again, exact, np.nan)
    return sample, class_mean(first, known, size, np.zeros(NEURONS), sample, text(len(exact)))


def test_estimates_are_unbiased_and_their_sampling_intervals_cover() -> None:
    exact, first, size = planted(1)
    truth = exact.sum(0) / text().n
    errors, covered, half_widths = [], [], []
    for seed in range(REPEATS):
        sample, mean = estimated(exact, first, size, seed, Budget(top=60, uniform=120, reruns=8))
        left = ~sample.measured
        assert np.allclose(mean.value[~left], truth[~left]) and (mean.sample_error[~left] == 0).all()
        errors.append((mean.value - truth)[left].mean())
        covered.append((np.abs(mean.value - truth) <= mean.sample_error)[left].mean())
        half_widths.append(mean.sample_error[left].mean())
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(REPEATS)
    # not so of the first order alone, whose bias is many times that
    assert abs((first.sum(0) / text().n - truth).mean()) > 5 * np.std(errors) / np.sqrt(REPEATS)
    assert 0.93 < np.mean(covered) < 0.97
    assert np.mean(half_widths) > 0


def test_standard_errors_hold_the_text_and_the_draws() -> None:
    """Over new texts and new draws, t of the class mean has the scatter of t."""
    t, alone = [], []
    for seed in range(REPEATS):
        rng = np.random.default_rng([2, seed])
        exact = rng.normal(0.2, 1.0, (WINDOWS, NEURONS))
        first = 0.8 * exact + rng.normal(0, 0.5, exact.shape)
        _, mean = estimated(exact, first, np.abs(first), seed, Budget(top=0, uniform=0, reruns=8))
        t.append((mean.value - 0.2 / 5) / mean.se)
        alone.append((mean.value - 0.2 / 5).std())
    assert np.mean(np.abs(np.concatenate(t)) < 2.093) == pytest.approx(0.95, abs=0.015)
    # the draws are a good part of it: the text alone scatters by 1/(5·√40)
    assert np.mean(alone) > 1.3 / (5 * np.sqrt(WINDOWS))


def test_an_exact_first_order_needs_no_correction() -> None:
    exact, _, size = planted(3)
    _, mean = estimated(exact, exact, size, 0, Budget(top=10, uniform=60, reruns=4))
    assert np.array_equal(mean.value, mean.first_order)
    assert (mean.sample_error == 0).all()


def test_without_a_uniform_sample_no_sampling_error_is_claimed() -> None:
    exact, first, size = planted(4)
    sample, mean = estimated(exact, first, size, 0, Budget(top=30, uniform=10, reruns=4))
    assert np.isnan(mean.sample_error[~sample.measured]).all() and (mean.sample_error[sample.measured] == 0).all()


def test_draws_are_half_even_and_half_in_proportion() -> None:
    size = np.array([[1.0, 3.0], [0.0, 4.0]])
    assert np.allclose(inclusion(size, 1.0), [[0.125 + 1 / 16, 0.125 + 3 / 16], [0.125, 0.125 + 0.25]])
    assert np.allclose(inclusion(np.zeros((2, 2)), 1.0), 0.25)
    assert inclusion(size, 4.0).max() == 1.0
    _, _, many = planted(5)
    drawn = [draw_sample(many, many.sum(0), Budget(0, 0, 6.0), np.random.default_rng(s)).drawn.sum() for s in range(20)]
    assert np.mean(drawn) == pytest.approx(inclusion(many, 6 * NEURONS).sum(), rel=0.02)


def test_the_top_has_no_fewer_neurons_than_the_group_of_that_name() -> None:
    assert [budget_of(24, neurons) for neurons in (512, 8192)] == [Budget(32, 24, RERUNS), Budget(82, 24, RERUNS)]
    assert budget_of(256, 512) == Budget(256, 256, RERUNS)
