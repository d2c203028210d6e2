"""Numbers of a curve by their names: corrected beside plain, and boundaries at the edge of what the fit can find."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from analyses.regimes.test_resampled import clusters_of, planted, refitted
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.analyses.half_samples import Corrected
from rtdyn.analyses.regimes.fit import Ends, Regimes, ThreeSegments, axis_of, fit_regimes
from rtdyn.analyses.regimes.resampled import CORRECTED, Resampled
from rtdyn.analyses.regimes.summary import (
    FIT_METRICS,
    PLATEAU_FRACTION,
    STABILITY_METRICS,
    FitValue,
    corrected_values,
    fit_values,
    stability_values,
)
from rtdyn.undefined import Undefined

NEURONS, CLUSTERS = 400, 40


@pytest.fixture(scope="module")
def fitted() -> tuple[Regimes, Resampled]:
    sums, n = clusters_of(planted(NEURONS, 15, 1.0), CLUSTERS, 0.3, np.random.default_rng(0))
    return fit_regimes(sums.sum(0) / n.sum(), np.zeros(NEURONS)), refitted(sums, n)


def values_of(regimes: Regimes, resampled: Resampled) -> dict[str, FitValue]:
    values = corrected_values(regimes, resampled)
    assert set(values) == {*CORRECTED, PLATEAU_FRACTION}
    assert not any(isinstance(v, Undefined) for v in values.values()), values
    return {name: v for name, v in values.items() if isinstance(v, FitValue)}


def with_boundary(resampled: Resampled, name: str, value: float, plain: float, se: float) -> Resampled:
    """The same with another boundary, in ranks, and the standard error of its logarithm."""
    logarithm = math.log(plain)
    boundary = Corrected(math.log(value), logarithm, se, se, CLUSTERS, (logarithm, logarithm), (-se, se))
    return replace(resampled, statistics={**resampled.statistics, name: boundary})


def test_corrected_numbers_have_intervals_and_plain_ones_stand_beside(fitted: tuple[Regimes, Resampled]) -> None:
    regimes, resampled = fitted
    plain, values = fit_values(regimes), values_of(regimes, resampled)
    fit = regimes.fit
    assert isinstance(fit, ThreeSegments) and set(FIT_METRICS) < set(plain)
    for name in CORRECTED:
        assert name not in plain and plain[f"{name}_plain"] == FitValue(float(getattr(fit, name)))
        assert values[name].clusters == CLUSTERS and not values[name].at_edge
        low, high = values[name].ci_low, values[name].ci_high
        assert low is not None and high is not None and low < values[name].value < high
    kappa = resampled.statistics["kappa"]
    assert isinstance(kappa, Corrected)
    estimate = kappa.estimate_with_leaps()
    assert values["kappa"] == FitValue(estimate.value, estimate.low, estimate.high, CLUSTERS)
    r1, share = values["r1"], values[PLATEAU_FRACTION]
    assert r1.value == pytest.approx(15, abs=2) and r1.ci_low is not None and r1.ci_high is not None
    assert (share.value, share.ci_low, share.ci_high) == (r1.value / 400, r1.ci_low / 400, r1.ci_high / 400)
    assert plain["raised"] == FitValue(1.0) and plain["plateau_size"] == FitValue(float(fit.r1))


def test_a_boundary_at_an_end_of_the_grid_has_an_interval_that_is_open_there(
    fitted: tuple[Regimes, Resampled],
) -> None:
    regimes, resampled = fitted
    assert isinstance(regimes.ends, Ends)
    least, most = regimes.ends.r1[0], regimes.ends.r2[1]
    assert 1 <= least < 15 < most < NEURONS
    # the fit lies there, or the correction goes beyond
    for value, plain in ((least, 15.0), (least / 3, 15.0), (15.0, least)):
        values = values_of(regimes, with_boundary(resampled, "r1", value, plain, 0.2))
        r1, share = values["r1"], values[PLATEAU_FRACTION]
        assert (r1.value, r1.ci_low, r1.at_edge) == (least, None, True)
        assert r1.ci_high is not None and r1.ci_high >= least
        assert (share.value, share.ci_low, share.at_edge) == (least / NEURONS, None, True)
        assert share.ci_high == r1.ci_high / NEURONS
    for value, plain in ((most, 99.0), (3.0 * most, 99.0), (99.0, most)):
        r2 = values_of(regimes, with_boundary(resampled, "r2", value, plain, 0.2))["r2"]
        assert (r2.value, r2.ci_high, r2.at_edge) == (most, None, True)
        assert r2.ci_low is not None and 1 <= r2.ci_low <= most


def test_either_boundary_has_both_ends_of_the_grid(fitted: tuple[Regimes, Resampled]) -> None:
    """A plateau cannot end where the power law has no room behind it, nor a power law where it has none before."""
    regimes, resampled = fitted
    ends = regimes.ends
    assert isinstance(ends, Ends) and ends.r1[0] < ends.r2[0] and ends.r1[1] < ends.r2[1]
    for name, (least, most) in (("r1", ends.r1), ("r2", ends.r2)):
        low = values_of(regimes, with_boundary(resampled, name, least, least, 0.2))[name]
        assert (low.value, low.ci_low, low.at_edge) == (least, None, True)
        high = values_of(regimes, with_boundary(resampled, name, most, most, 0.2))[name]
        assert (high.value, high.ci_high, high.at_edge) == (most, None, True)
        inside = values_of(regimes, with_boundary(resampled, name, least + 2, least + 2, 0.2))[name]
        assert not inside.at_edge
    curve = np.exp(-0.5 * np.log(np.arange(1, NEURONS + 1)))
    grid = axis_of(np.arange(1, NEURONS + 1))
    assert not isinstance(grid, Undefined) and fit_regimes(curve, np.zeros(NEURONS)).ends == grid.ends
    firsts, seconds = grid.last[grid.first - 1], grid.last[grid.second - 1]
    assert (ends.r1, ends.r2) == ((firsts.min(), firsts.max()), (seconds.min(), seconds.max()))


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["r1", "r2"]),
    value=st.floats(0.01, 1e5),
    plain=st.integers(1, NEURONS),
    se=st.floats(0, 3),
)
def test_whatever_is_corrected_a_boundary_lies_in_its_interval_and_among_the_ranks(
    fitted: tuple[Regimes, Resampled], name: str, value: float, plain: int, se: float
) -> None:
    regimes, resampled = fitted
    found = values_of(regimes, with_boundary(resampled, name, value, plain, se))[name]
    assert isinstance(regimes.fit, ThreeSegments)
    least, most = getattr(regimes.ends, name)
    assert least <= found.value <= most
    assert found.at_edge == (found.ci_low is None or found.ci_high is None)
    assert found.at_edge == (found.value in (least, most))
    assert found.ci_low is None or 1 <= found.ci_low <= found.value
    assert found.ci_high is None or found.value <= found.ci_high <= regimes.fit.last


def test_what_has_no_fit_or_too_little_text_says_why(fitted: tuple[Regimes, Resampled]) -> None:
    regimes, resampled = fitted
    flat = fit_regimes(np.ones(5), np.zeros(5))
    too_few = Undefined("5 uncensored neurons, under 15")
    assert corrected_values(flat, resampled) == dict.fromkeys((*CORRECTED, PLATEAU_FRACTION), too_few)
    assert {fit_values(flat)[name] for name in FIT_METRICS} == {too_few}
    reason = Undefined("the class lies in 3 independent pieces of text, under 8")
    assert corrected_values(regimes, reason) == dict.fromkeys((*CORRECTED, PLATEAU_FRACTION), reason)
    assert stability_values(reason) == dict.fromkeys(STABILITY_METRICS, reason)
    one = replace(resampled, statistics={**resampled.statistics, "r1": reason})
    values = corrected_values(regimes, one)
    assert values["r1"] == values[PLATEAU_FRACTION] == reason and isinstance(values["r2"], FitValue)
    assert stability_values(resampled) == {
        "stable_plateau_size": float((resampled.stable_share > 0.5).sum()), "raised_share": 1.0, "no_fit_share": 0.0,
    }  # fmt: skip
