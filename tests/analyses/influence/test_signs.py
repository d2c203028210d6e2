"""Clear signs: a planted case, Benjamini and Hochberg by hand, and how many signs are wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.influence.signs import FALSE_DISCOVERY_RATE, clear_signs, signs_of
from rtdyn.capture.forward_pass import Capture

NOTHING = np.zeros(4)


def test_planted_neurons_have_their_signs() -> None:
    mean, se = np.array([5.0, -5.0, 0.1, 0.0]), np.ones(4)
    assert clear_signs(mean, se, NOTHING, 200).tolist() == [1, -1, 0, 0]
    # what the error bound leaves open is not clear, nor is what few clusters show
    assert clear_signs(mean, se, np.array([4.0, 6.0, 0, 0]), 200).tolist() == [0, 0, 0, 0]
    assert clear_signs(mean, se, NOTHING, 3).tolist() == [0, 0, 0, 0]
    assert clear_signs(mean, np.full(4, np.nan), NOTHING, 1).tolist() == [0, 0, 0, 0]
    # without noise any distance is clear, and none is not
    assert clear_signs(mean, np.zeros(4), NOTHING, 9).tolist() == [1, -1, 1, 0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), clusters=st.integers(2, 80), factor=st.floats(1e-4, 1e4))
def test_signs_are_those_of_benjamini_and_hochberg_by_hand(seed: int, clusters: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    mean, se, bound = 3 * rng.standard_normal(60), rng.random(60) + 0.1, 0.1 * rng.random(60)
    p = 2 * stats.t.sf(np.maximum(np.abs(mean) - bound, 0) / se, clusters - 1)
    order = np.argsort(p)
    passing = np.flatnonzero(p[order] <= FALSE_DISCOVERY_RATE * np.arange(1, 61) / 60)
    expected = np.zeros(60, dtype=np.int64)
    chosen = order[: passing[-1] + 1] if len(passing) else order[:0]
    expected[chosen] = np.sign(mean[chosen])
    found = clear_signs(mean, se, bound, clusters)
    assert found.tolist() == expected.tolist()
    assert clear_signs(-factor * mean, factor * se, factor * bound, clusters).tolist() == (-expected).tolist()


@pytest.mark.parametrize("zeros", [0, 200, 450])
def test_few_signs_are_wrong(zeros: int) -> None:
    """Of 500 neurons measured on 25 clusters, some with no effect, which every sign that is given mistakes."""
    rng, wrong, found = np.random.default_rng(zeros), [], []
    for _ in range(60):
        truth = 0.3 * rng.standard_normal(500)
        truth[:zeros] = 0
        values = truth + rng.standard_normal((25, 500))
        signs = clear_signs(values.mean(0), values.std(0, ddof=1) / 5, np.zeros(500), 25)
        given_signs = signs != 0
        wrong.append((signs != np.sign(truth))[given_signs].sum() / max(1, given_signs.sum()))
        found.append(given_signs.sum())
    assert np.mean(wrong) <= FALSE_DISCOVERY_RATE
    assert np.mean(found) > 0.02 * (500 - zeros)


def test_without_any_effect_a_sign_is_given_in_few_data_sets() -> None:
    rng = np.random.default_rng(0)
    any_sign = 0
    for _ in range(400):
        values = rng.standard_normal((12, 100))
        any_sign += clear_signs(values.mean(0), values.std(0, ddof=1) / 12**0.5, np.zeros(100), 12).any()
    assert stats.binomtest(any_sign, 400, FALSE_DISCOVERY_RATE, alternative="greater").pvalue > 0.01


def test_signs_of_a_trained_model_are_fewer_than_without_counting_its_neurons(
    captured: Callable[[int], Capture],
) -> None:
    c = influence(captured(4000), torch.full((2560,), -1), 1).classes["rare"]
    signs = signs_of(c)
    t = (c.mean.abs() - c.error_bound).clamp(min=0) / c.mean_se
    by_itself = (2 * stats.t.sf(t.numpy(), c.clusters - 1) <= FALSE_DISCOVERY_RATE).sum()
    assert 0 < (signs != 0).sum() < by_itself
    assert (np.sign(c.mean.numpy())[signs != 0] == signs[signs != 0]).all()
