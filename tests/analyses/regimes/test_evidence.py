"""Shape nulls and likelihoods: calibration, power on planted plateaus, closed forms, and refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.regimes.evidence import (
    COMPARISONS,
    LOGNORMAL,
    PARETO,
    SHAPES,
    Likelihoods,
    ShapeEvidence,
    library_search,
    likelihoods,
    log_of_shape,
    null_statistics,
    shape_p_values,
    shape_statistic,
)
from rtdyn.analyses.regimes.fit import ThreeSegments, fit_ranks, fit_regimes
from rtdyn.analyses.regimes.powerlaw_fit import powerlaw_fit
from rtdyn.capture.forward_pass import Capture
from rtdyn.streams import stream
from rtdyn.undefined import Undefined

DATASETS = 200
KS_1_PERCENT = 1.63


def raised_top(neurons: int, top: int, spread: float, height: float, rng: np.random.Generator) -> np.ndarray:
    """Lognormal influence of log-sd `spread` in random order, the `top` largest raised by `height` log units."""
    log_a = spread * rng.standard_normal(neurons)
    log_a[np.argsort(-log_a)[:top]] += height
    return np.exp(log_a)


def p_values_under(
    shape: str, neurons: int, uncensored: int, datasets: int, draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """p against each shape of data sets that have one shape, and of which all but the largest are censored."""
    results = []
    for log_a in log_of_shape(shape, (datasets, neurons), rng):
        values = np.exp(log_a)
        cut = np.sort(values)[-uncensored - 1] if uncensored < neurons else 0.0
        results.append(evidence(values, draws, cut).p_values)
    return {name: np.array([r[name] for r in results]) for name in SHAPES}


def evidence(values: np.ndarray, draws: int = 499, uncertainty: float = 0.0) -> ShapeEvidence:
    result = shape_p_values(values, np.full(len(values), uncertainty), draws)
    assert isinstance(result, ShapeEvidence), result
    return result


@pytest.mark.slow
@pytest.mark.parametrize("uncensored", [128, 90])
def test_each_p_value_is_uniform_under_its_own_shape_and_the_largest_is_valid_under_all(uncensored: int) -> None:
    rng = np.random.default_rng(uncensored)
    for shape in SHAPES:
        p = p_values_under(shape, 128, uncensored, DATASETS, 999, rng)
        # two samples: the data sets, and the null that they share
        assert stats.kstest(p[shape], "uniform").statistic < KS_1_PERCENT * np.sqrt(1 / DATASETS + 1 / 999)
        largest = np.max(list(p.values()), axis=0)
        for level in (0.05, 0.2):
            assert (largest <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / DATASETS)
    assert not np.allclose(p[PARETO], p[LOGNORMAL])


@pytest.mark.slow
def test_draws_as_needed_give_the_rank_among_all_where_few_of_the_first_reach_it() -> None:
    rng, few, many = np.random.default_rng(4), 0, 0
    every = np.exp(np.vstack([log_of_shape(shape, (60, 128), rng) for shape in SHAPES]))
    raised = [raised_top(128, 8, 0.3, 0.5, rng) for _ in range(10)]
    none = np.zeros(128)
    for values in (*every, *raised):
        whole, brief = (shape_p_values(values, none, as_needed=needed) for needed in (False, True))
        assert isinstance(whole, ShapeEvidence) and isinstance(brief, ShapeEvidence)
        for shape in SHAPES:
            null = null_statistics(shape, 128, 128, 99, 0)
            assert isinstance(null, np.ndarray)
            reached = int((null >= whole.statistic).sum())
            assert brief.p_values[shape] == (whole.p_values[shape] if reached < 10 else (1 + reached) / 100)
            few, many = few + (reached < 10), many + (reached >= 10)
    assert few > 20 and many > 200


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "height"), [(0.3, 1.0), (1.0, 3.0)])
def test_a_raised_top_is_found_against_every_shape(spread: float, height: float) -> None:
    rng = np.random.default_rng(1)
    found = [evidence(raised_top(2048, 20, spread, height, rng)).p_value <= 0.05 for _ in range(30)]
    assert np.mean(found) >= 0.95


@pytest.mark.slow
def test_one_log_unit_on_a_wide_bulk_beats_the_two_light_shapes_and_its_end_is_located() -> None:
    rng = np.random.default_rng(2)
    curves = [raised_top(2048, 20, 1.0, 1.0, rng) for _ in range(30)]
    results = [evidence(c) for c in curves]
    for shape in ("half_normal", "lognormal"):
        assert np.mean([r.p_values[shape] <= 0.05 for r in results]) >= 0.95
    # the largest few of a Pareto sample scatter by more than that
    assert np.mean([r.p_values["pareto"] <= 0.05 for r in results]) < 0.5
    fits = [fit_regimes(c, np.zeros(2048)).fit for c in curves]
    assert np.mean([isinstance(f, ThreeSegments) and f.raised and abs(np.log(f.r1 / 20)) < 0.15 for f in fits]) >= 0.95


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 500), factor=st.floats(1e-5, 1e5), power=st.floats(0.2, 4.0))
def test_scale_exponent_and_order_of_neurons_do_not_matter(seed: int, factor: float, power: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=200)
    one, other = evidence(values, 99), evidence(factor * rng.permutation(values) ** power, 99)
    assert one.statistic == pytest.approx(other.statistic, abs=1e-4)
    for shape in SHAPES:
        assert one.p_values[shape] == pytest.approx(other.p_values[shape], abs=0.021)


def test_nulls_are_censored_like_the_data_and_shared() -> None:
    values = np.random.default_rng(0).lognormal(size=300)
    cut = float(np.sort(values)[49])
    result = evidence(values, 99, cut)
    null = null_statistics(LOGNORMAL, 300, 250, 99, 0)
    assert null is null_statistics(LOGNORMAL, 300, 250, 99, 0)
    assert isinstance(null, np.ndarray) and not null.flags.writeable
    assert result.p_values[LOGNORMAL] == (1 + (null >= result.statistic).sum()) / 100
    assert (result.null_means[LOGNORMAL], result.null_sds[LOGNORMAL]) == (null.mean(), null.std(ddof=1))
    by_hand = []
    for row in log_of_shape(LOGNORMAL, (99, 300), stream(0, "shape nulls", LOGNORMAL)):
        top = np.sort(row)[50:]
        fit = fit_regimes(np.exp(row), np.full(300, np.exp(np.sort(row)[49]))).fit
        assert isinstance(fit, ThreeSegments)
        by_hand.append(fit.excess / (np.percentile(top, 75) - np.percentile(top, 25)))
    assert null == pytest.approx(np.array(by_hand), abs=1e-6)


def test_curves_without_a_statistic_say_why() -> None:
    zero = np.zeros(200)
    assert shape_p_values(zero, zero, 99) == Undefined("0 uncensored neurons, under 15")
    assert shape_p_values(np.ones(200), zero, 99) == Undefined(
        "the middle half of the uncensored neurons have equal influence"
    )
    # neurons whose ranks reach to 300 have a fit, as many of the largest of a null curve have none
    gaps = np.full(300, 1e9)
    gaps[np.unique(np.geomspace(1, 300, 24).astype(int)) - 1] = 0
    result = shape_p_values(np.arange(1, 301) ** -0.5, gaps, 99)
    assert isinstance(result, Undefined) and result.reason.startswith("the shape nulls' curves have no fit")


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(5))
def test_the_library_finds_in_the_tail_what_it_finds_in_all(kind: int) -> None:
    rng = np.random.default_rng(kind)
    shapes = [
        np.abs(rng.standard_normal(160)),
        rng.lognormal(0, 1.5, 160),
        rng.pareto(1.2, 160) + 1,
        rng.pareto(4, 160) + 0.2,
        rng.lognormal(0, 1, 160).round(1) + 0.1,
    ]
    values = shapes[kind] / np.median(shapes[kind])
    some, begins = library_search(values)
    tried = ((some >= begins[0]) & (some < begins[1])).sum()
    assert (len(some), tried) == (160, 159) if kind == 4 else 50 <= len(some) <= 160 and 2 < tried < 8
    whole = powerlaw_fit(np.sort(values), (values.min(), values.max()), COMPARISONS)
    of_tail = powerlaw_fit(some, begins, COMPARISONS)
    assert of_tail[0] == pytest.approx(whole[0], rel=1e-9) and of_tail[1] == whole[1]
    for name, pair in whole[2].items():
        assert of_tail[2][name] == pytest.approx(pair, rel=1e-9)


@pytest.mark.parametrize("other", [0.0, np.inf, 1.0])
def test_the_library_tries_all_where_a_value_is_no_number_of_a_tail_or_repeats(other: float) -> None:
    values = np.append(np.random.default_rng(3).lognormal(0, 1, 60), [other, 1.0])
    given, begins = library_search(values)
    assert given.tolist() == sorted(values) and begins == (values.min(), values.max())


def test_likelihoods_of_a_power_law_and_of_a_lognormal(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pareto = likelihoods(rng.pareto(1.5, 1500) + 1)
    lognormal = likelihoods(rng.lognormal(0, 1, 1500))
    assert isinstance(pareto, Likelihoods) and isinstance(lognormal, Likelihoods)
    assert pareto.alpha == pytest.approx(2.5, abs=0.2)
    assert pareto.p_values["power_law_over_lognormal"] > 0.05
    assert lognormal.tail < pareto.tail
    assert set(pareto.ratios) == set(COMPARISONS)
    assert pareto.ratios["power_law_over_truncated"] <= 1e-6
    assert capfd.readouterr() == ("", "")


def test_the_power_law_is_the_closed_form_and_its_ratio_that_of_scipy() -> None:
    values = np.random.default_rng(1).lognormal(0, 1, 400)
    result = likelihoods(values)
    scaled = likelihoods(1e-6 * values)
    assert isinstance(result, Likelihoods) and isinstance(scaled, Likelihoods)
    tail = values[values >= result.xmin * (1 - 1e-12)]
    assert len(tail) == result.tail
    assert result.alpha == pytest.approx(1 + len(tail) / np.log(tail / result.xmin).sum(), rel=1e-6)
    distance = stats.kstest(tail, lambda v: 1 - (v / result.xmin) ** (1 - result.alpha)).statistic
    assert result.ks_distance == pytest.approx(distance, abs=1.01 / len(tail))
    assert scaled.xmin == pytest.approx(1e-6 * result.xmin)
    for name in COMPARISONS:
        assert scaled.ratios[name] == pytest.approx(result.ratios[name], rel=1e-3, abs=1e-3)


def test_influence_without_a_distribution_says_why() -> None:
    assert likelihoods(np.zeros(50)) == Undefined("fewer than two different influences above 0")
    assert likelihoods(np.ones(50)) == Undefined("fewer than two different influences above 0")
    few = likelihoods(np.array([1.0, 2.0, 0.0]))
    assert isinstance(few, Undefined) and few.reason.startswith("powerlaw")


@pytest.mark.parametrize("step", [1, 512, 4000])
def test_real_checkpoints(step: int, captured: Callable[[int], Capture]) -> None:
    c = influence(captured(step), torch.full((2560,), -1), 1).classes["rare"]
    values, uncertainty = c.mean_abs.numpy(), (2 * c.mean_abs_se + c.error_bound).numpy()
    shapes = shape_p_values(values, uncertainty, 199)
    assert isinstance(shapes, ShapeEvidence)
    # whatever the step, the curve of a model this small is within what a Pareto sample shows
    assert shapes.p_value > 0.05 and min(shapes.p_values.values()) >= 1 / 200
    assert isinstance(likelihoods(values), Likelihoods)


@pytest.mark.parametrize("count", [62, 63, 244, 246])
def test_the_spread_is_numpys(count: int) -> None:
    log_a = -np.sort(-np.random.default_rng(count).standard_normal(count))
    fit = fit_ranks(np.arange(1, count + 1), log_a)
    assert isinstance(fit, ThreeSegments)
    upper, lower = np.percentile(log_a, (75, 25))
    assert shape_statistic(log_a, fit) == fit.excess / (upper - lower)
