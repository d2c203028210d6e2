"""Curves of planted layers, of which few neurons are measured, against those of all neurons measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rtdyn.analyses.earlier_layers.curve import LayerCurve, known_influence, layer_curve, line_error
from rtdyn.analyses.earlier_layers.estimate import ClassMean, TextPieces, class_mean
from rtdyn.analyses.earlier_layers.layer import Layer
from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.analyses.regimes.fit import fit_regimes
from rtdyn.analyses.regimes.summary import FitValue
from rtdyn.undefined import Undefined

WINDOWS, NEURONS, TOP, RANDOM = 24, 512, 32, 48
TEXT = TextPieces(np.full(WINDOWS, 8), np.arange(WINDOWS), np.zeros((WINDOWS, NEURONS)))


def planted(raised: float, error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Window sums (W, F) of |Δ| and |Δ¹|: a power law whose first six lie higher; Δ¹ grows faster, as where Δ bends."""
    rng = np.random.default_rng(seed)
    rank = 1.0 + rng.permutation(NEURONS)
    influence = rank**-0.7 * np.where(rank <= 6, np.exp(raised), 1.0)
    exact = influence * rng.lognormal(0, 0.3, (WINDOWS, NEURONS))
    first = 3 * exact.sum(0) ** 1.3 * rng.lognormal(0, error, NEURONS)
    return exact, exact / exact.sum(0) * first


def estimated(exact: np.ndarray, first: np.ndarray, top: int, seed: int = 0) -> tuple[ClassMean, Sample]:
    random = np.sort(np.random.default_rng(seed).choice(NEURONS, RANDOM, replace=False))
    sample = Sample(np.argsort(-first.sum(0))[:top], random, np.ones(exact.shape), np.zeros(exact.shape, dtype=bool))
    known = np.where(sample.run_again, exact, np.nan)
    return class_mean(first, known, first, np.zeros(NEURONS), sample, TEXT), sample


def curve_of(exact: np.ndarray, first: np.ndarray, top: int = TOP) -> LayerCurve:
    mean, sample = estimated(exact, first, top)
    return layer_curve(mean, TEXT, sample, 0)


def number(curve: LayerCurve, name: str) -> FitValue:
    value = curve.values[name]
    assert isinstance(value, FitValue), value
    return value


@pytest.mark.slow
@pytest.mark.parametrize("raised", [0.0, 1.5])
def test_a_curve_of_few_measured_neurons_is_that_of_all(raised: float) -> None:
    exact, first = planted(raised, error=0.05)
    few, all_ = curve_of(exact, first), curve_of(exact, first, top=NEURONS)
    assert all_.error == 0 and few.uncensored == NEURONS
    for name in ("kappa", "excess"):
        assert number(few, name).value == pytest.approx(number(all_, name).value, abs=0.1), name
    alone = fit_regimes(first.sum(0), np.zeros(NEURONS)).fit
    whole = fit_regimes(exact.sum(0), np.zeros(NEURONS)).fit
    assert not isinstance(alone, Undefined) and not isinstance(whole, Undefined)
    assert alone.kappa > whole.kappa + 0.15, "the first order alone is steeper"


def test_what_the_line_errs_by_is_known_from_the_random_neurons() -> None:
    held = []
    for seed in range(20):
        exact, first = planted(0.0, error=0.2, seed=seed)
        mean, sample = estimated(exact, first, TOP, seed)
        known, truth, error = known_influence(mean, sample), exact.sum(0) / TEXT.n, line_error(mean, sample)
        np.testing.assert_allclose(known[sample.measured], truth[sample.measured])
        assert not isinstance(error, Undefined)
        held.append((np.abs(truth / known - 1) < error)[~sample.measured].mean())
    assert 0.86 < np.mean(held) < 0.95


@pytest.mark.slow
def test_a_line_that_errs_by_over_a_quarter_gives_no_curve() -> None:
    curve = curve_of(*planted(0.0, error=0.4))
    assert isinstance(curve.error, float) and 0.25 < curve.error < 1
    for value in (*curve.values.values(), curve.shape):
        assert isinstance(value, Undefined), value
        assert f"may err by {curve.error:.0%}, over 25%; --exact-neurons {NEURONS} measures all" in value.reason
    assert curve.uncensored == 0
    measured = curve_of(*planted(0.0, error=0.4), top=NEURONS)
    assert measured.error == 0 and not isinstance(measured.shape, Undefined)


def test_each_class_has_a_curve_by_its_own_correlation() -> None:
    """Where neurons act alike, their ranks are lost although the line errs by little."""
    good, sample = estimated(*planted(0.0, error=0.05), top=TOP)
    rng = np.random.default_rng(1)
    alike = np.tile(rng.lognormal(0, 0.1, NEURONS), (WINDOWS, 1))
    poor = class_mean(
        alike * rng.lognormal(0, 0.1, NEURONS), np.where(sample.run_again, alike, np.nan), alike, np.zeros(NEURONS),
        sample, TEXT,
    )  # fmt: skip
    classes: Any = {
        name: SimpleNamespace(text=TEXT, absolute=mean) for name, mean in (("rare", good), ("common", poor))
    }
    layer = Layer(cast(Any, None), sample, classes, 0, Undefined(""), True)
    assert isinstance(layer.curve("rare", "mean_abs", 0), LayerCurve)
    common = layer.curve("common", "mean_abs", 0)
    assert isinstance(common, Undefined) and "ranks neurons too poorly" in common.reason
