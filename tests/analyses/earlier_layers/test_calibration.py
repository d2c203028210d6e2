"""How good the first order is: against the full truth of planted layers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, pearsonr, spearmanr

from rtdyn.analyses.earlier_layers.calibration import Sampled, calibrate, direct_share, missed_share, ranks
from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.undefined import Undefined

NEURONS, DRAWN = 600, 200


@pytest.mark.parametrize(("n", "noise"), [(24, 0.03), (24, 0.6), (100, 0.2)])
def test_spearman_of_a_sample_is_that_of_all_neurons_without_bias(n: int, noise: float) -> None:
    rng, found, held = np.random.default_rng(0), [], []
    exact = rng.normal(size=300)
    first = exact + noise * rng.normal(size=300)
    truth = spearmanr(first, exact)[0]
    for _ in range(150):
        some = rng.choice(300, n, replace=False)
        number = calibrate(first[some], exact[some], 300).spearman
        assert isinstance(number, Sampled) and number.low is not None and number.high is not None
        found.append(number.value)
        held.append(number.low <= truth <= number.high)
    assert abs(np.mean(found) - truth) < 3 * np.std(found) / np.sqrt(150)
    assert np.mean(held) > 0.92


def planted(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    exact = rng.lognormal(0, 1, NEURONS) * rng.choice([-1, 1], NEURONS)
    return 0.8 * exact + noise * rng.normal(size=NEURONS), exact


def test_ranks_that_agree_where_one_neuron_is_left_out_do_not_make_the_interval_endless() -> None:
    exact = np.arange(24.0)
    first = exact.copy()
    first[[10, 11]] = first[[11, 10]]
    spearman = calibrate(first, exact, 512).spearman
    assert isinstance(spearman, Sampled) and spearman.low is not None and spearman.high is not None
    assert spearman.value > 1 - 12 / (24**3 - 24) and 0.98 < spearman.low < spearman.value
    same = calibrate(exact, exact, 512).spearman
    assert isinstance(same, Sampled) and same.low is not None and 0.98 < same.low < same.value == same.high == 1


def test_of_all_neurons_it_is_what_scipy_says_and_has_no_width() -> None:
    first, exact = planted(0, 0.5)
    c = calibrate(first, exact, NEURONS)
    for found, truth in (
        (c.pearson, pearsonr(first, exact).statistic),
        (c.spearman, spearmanr(first, exact).statistic),
        (c.slope, linregress(first, exact).slope),
    ):
        assert isinstance(found, Sampled)
        assert found.value == pytest.approx(truth) and found.low == found.high == pytest.approx(truth)
    assert isinstance(c.error, Sampled)
    assert np.mean(np.abs(first - exact) <= c.error.value) == pytest.approx(0.9, abs=2 / NEURONS)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_intervals_hold_what_all_neurons_give(noise: float) -> None:
    held: dict[str, list[bool]] = {"pearson": [], "spearman": [], "slope": [], "direct": []}
    for seed in range(60):
        first, exact = planted(seed, noise)
        some = np.random.default_rng([1, seed]).choice(NEURONS, DRAWN, replace=False)
        c = calibrate(first[some], exact[some], NEURONS)
        direct = direct_share(first[some], exact[some], NEURONS)
        for name, found, truth in (
            ("pearson", c.pearson, pearsonr(first, exact).statistic),
            ("spearman", c.spearman, spearmanr(first, exact).statistic),
            ("slope", c.slope, linregress(first, exact).slope),
            ("direct", direct, (first @ exact) / (exact @ exact)),
        ):
            assert isinstance(found, Sampled) and found.low is not None and found.high is not None
            held[name].append(found.low <= truth <= found.high)
    assert all(np.mean(inside) >= 0.88 for inside in held.values()), {n: np.mean(h) for n, h in held.items()}


def test_a_poor_first_order_ranks_nothing_and_says_why() -> None:
    good, poor = (calibrate(*planted(2, noise), NEURONS + 1).spearman for noise in (0.1, 3.0))
    assert ranks(good, False) is True
    refused = ranks(poor, False)
    assert isinstance(refused, Undefined) and "under 0.8" in refused.reason
    assert ranks(poor, True) is True, "where all are measured nothing rests on the first order"


def test_silent_layers_and_few_neurons_have_no_number() -> None:
    zeros = np.zeros(50)
    c = calibrate(zeros, zeros, 100)
    assert isinstance(c.spearman, Undefined) and isinstance(c.error, Sampled) and c.error.value == 0.0
    assert isinstance(direct_share(zeros, zeros, 100), Undefined)
    assert isinstance(calibrate(np.arange(5.0), np.arange(5.0), 100).pearson, Undefined)


def test_shares_of_direct_and_later_effects_make_one() -> None:
    direct, total = planted(4, 0.5)
    shares = [direct_share(part, total, NEURONS) for part in (direct, total - direct)]
    assert sum(s.value for s in shares if isinstance(s, Sampled)) == pytest.approx(1.0)


def sample_of(top: np.ndarray, uniform: np.ndarray) -> Sample:
    return Sample(top, uniform, np.ones((1, NEURONS)), np.zeros((1, NEURONS), dtype=bool))


def test_what_the_first_order_missed_is_estimated() -> None:
    influence = np.arange(NEURONS, dtype=float)
    chosen = np.arange(NEURONS - 100, NEURONS)
    uniform = np.arange(0, NEURONS, 2)
    nothing = missed_share(influence, sample_of(chosen, uniform))
    assert isinstance(nothing, Sampled) and nothing.value == 0.0
    assert nothing.high is not None and 0 < nothing.high < 0.2
    # 32 lead the chosen; as many again, of half of the others one each, lie above them
    hidden = influence.copy()
    hidden[np.arange(0, 64, 2)[:16]] = NEURONS + 1
    some = missed_share(hidden, sample_of(chosen, uniform))
    assert isinstance(some, Sampled) and some.value == pytest.approx(0.5, abs=0.01)
    assert some.low is not None and some.high is not None and some.low < 0.5 < some.high
    assert missed_share(influence, sample_of(np.arange(NEURONS), uniform)) == Sampled(0.0, 0.0, 0.0, NEURONS)
