"""How good the first order is: against the full truth of planted layers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom, linregress, pearsonr, spearmanr

from rtdyn.analyses.earlier_layers.calibration import (
    Sampled,
    calibrate,
    direct_share,
    may_be_missed,
    missed_share,
    ranks,
)
from rtdyn.analyses.earlier_layers.sample import Sample
from rtdyn.undefined import Undefined

NEURONS, DRAWN = 600, 200


def sample_of(top: np.ndarray, uniform: np.ndarray, neurons: int = NEURONS) -> Sample:
    return Sample(top, uniform, np.ones((1, neurons)), np.zeros((1, neurons), dtype=bool))


def drawn(first: np.ndarray, n: int, rng: np.random.Generator, top: int = 0) -> Sample:
    """So many neurons at random, and the top by first order."""
    uniform = np.sort(rng.choice(len(first), n, replace=False))
    return sample_of(np.argsort(-np.abs(first), kind="stable")[:top], uniform, len(first))


def known(exact: np.ndarray, sample: Sample) -> np.ndarray:
    """NaN where it was not measured."""
    return np.where(sample.measured, exact, np.nan)


@pytest.mark.parametrize(("n", "noise", "grid"), [(24, 0.03, 0), (24, 0.6, 0), (100, 0.2, 0), (32, 0.1, 0.5)])
def test_spearman_of_a_sample_is_that_of_all_neurons_without_bias(n: int, noise: float, grid: float) -> None:
    """grid: what values are rounded to, so that some are tied."""
    rng, found, held = np.random.default_rng(0), [], []
    exact = rng.normal(size=300)
    first = exact + noise * rng.normal(size=300)
    if grid:
        first, exact = (grid * np.round(v / grid) for v in (first, exact))
    truth = spearmanr(first, exact)[0]
    for _ in range(150):
        sample = drawn(first, n, rng)
        number = calibrate(first, known(exact, sample), sample).spearman
        assert isinstance(number, Sampled) and number.low is not None and number.high is not None
        found.append(number.value)
        held.append(number.low <= truth <= number.high)
    assert abs(np.mean(found) - truth) < 3 * np.std(found) / np.sqrt(150)
    assert np.mean(held) > 0.95


@pytest.mark.parametrize(("share", "n"), [(0.004, 32), (0.03, 32), (0.03, 100), (0.06, 32)])
@pytest.mark.parametrize("sign", [1, -1])
def test_spearmans_interval_holds_what_few_neurons_decide(share: float, n: int, sign: int) -> None:
    """The first order is nearly right but for a few neurons. Of these it says nothing, or it has the wrong sign."""
    held, unwarned = [], 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        exact = rng.lognormal(size=512)
        first = exact * np.exp(0.03 * rng.normal(size=512))
        few = rng.choice(512, round(share * 512), replace=False)
        if sign > 0:
            first[few] = rng.permutation(exact)[: len(few)]
        else:
            flipped = rng.choice([-1, 1], 512)
            exact, first = flipped * exact, flipped * first
            first[few] *= -1
        sample = drawn(first, n, rng)
        number = calibrate(first, known(exact, sample), sample).spearman
        assert isinstance(number, Sampled) and number.low is not None and number.high is not None
        held.append(number.low <= spearmanr(first, exact)[0] <= number.high)
        unwarned += not np.isin(few, sample.uniform).any()
    assert np.mean(held) >= 0.95
    assert n > 32 or share > 0.01 or unwarned > 100, "most samples hold none of the few"


@pytest.mark.parametrize(("n", "neurons"), [(32, 512), (32, 40), (100, 512), (500, 512), (1, 3)])
def test_the_most_that_may_be_missed_is_what_the_hypergeometric_law_says(n: int, neurons: int) -> None:
    most = may_be_missed(n, neurons)
    assert hypergeom(neurons, most, n).pmf(0) >= 0.025
    assert most == neurons - n or hypergeom(neurons, most + 1, n).pmf(0) < 0.025
    assert may_be_missed(neurons, neurons) == 0


def test_neurons_in_another_order_or_unit_have_the_same_numbers() -> None:
    first, exact = planted(3, 0.5)
    sample = drawn(first, 60, np.random.default_rng(0), top=32)
    order = np.random.default_rng(1).permutation(NEURONS)
    place = np.argsort(order)
    moved = sample_of(place[sample.top], np.sort(place[sample.uniform]))
    one, other = calibrate(first, known(exact, sample), sample), calibrate(first[order], exact[order], moved)
    for a, b in ((one.pearson, other.pearson), (one.spearman, other.spearman), (one.slope, other.slope)):
        assert isinstance(a, Sampled) and isinstance(b, Sampled)
        for mine, its in zip(vars(a).values(), vars(b).values(), strict=True):
            assert (mine is None) == (its is None) and (mine is None or mine == pytest.approx(its))
    cubes = calibrate(first**3, exact**3, sample).spearman
    assert isinstance(cubes, Sampled) and isinstance(one.spearman, Sampled)
    assert one.spearman.low is not None and one.spearman.high is not None
    assert cubes.low == pytest.approx(one.spearman.low)
    negative = calibrate(-first, exact, sample).spearman
    assert isinstance(negative, Sampled) and negative.low is not None and negative.high is not None
    assert negative.value == pytest.approx(-one.spearman.value)
    assert negative.high == pytest.approx(-one.spearman.low) and negative.low == pytest.approx(-one.spearman.high)


def planted(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    exact = rng.lognormal(0, 1, NEURONS) * rng.choice([-1, 1], NEURONS)
    return 0.8 * exact + noise * rng.normal(size=NEURONS), exact


def test_ranks_that_agree_where_one_neuron_is_left_out_do_not_make_the_interval_endless() -> None:
    exact, sample = np.arange(1.0, 513), sample_of(np.arange(0), np.arange(24), 512)
    first = exact.copy()
    first[[10, 11]] = first[[11, 10]]
    kept = 1 - may_be_missed(24, 512) / 512
    spearman = calibrate(first, exact, sample).spearman
    assert isinstance(spearman, Sampled) and spearman.low is not None and spearman.high is not None
    assert spearman.value > 1 - 12 / (24**3 - 24) and 0.97 * kept < spearman.low < kept
    same = calibrate(exact, exact, sample).spearman
    assert isinstance(same, Sampled) and same.low is not None and 0.97 * kept < same.low < same.value == same.high == 1


def test_of_all_neurons_it_is_what_scipy_says_and_has_no_width() -> None:
    first, exact = planted(0, 0.5)
    every, halves = np.arange(NEURONS), np.split(np.arange(NEURONS), 2)
    for top, uniform in ((every[:0], every), (every[:32], every), (every, every[:32]), halves):
        c = calibrate(first, exact, sample_of(top, uniform))
        for found, truth in (
            (c.pearson, pearsonr(first, exact).statistic),
            (c.spearman, spearmanr(first, exact).statistic),
            (c.slope, linregress(first, exact).slope),
        ):
            assert isinstance(found, Sampled)
            assert found.value == pytest.approx(truth) and found.low == found.high == pytest.approx(truth)
        assert isinstance(c.error, Sampled)
        assert np.mean(np.abs(first - exact) <= c.error.value) == pytest.approx(0.9, abs=2 / NEURONS)


def test_sums_take_the_top_as_it_is_and_the_others_from_the_sample() -> None:
    """A slope that differs in the top: with all neurons of one kind alike, the sample has the truth."""
    first = np.where(np.arange(600) < 32, 10.0, 1.0) * np.where(np.arange(600) % 2, 1, -1)
    exact = np.where(np.arange(600) < 32, 2.0, 0.5) * first
    sample = sample_of(np.arange(32), np.concatenate([[0], 32 + np.arange(40)]))
    c, share = calibrate(first, known(exact, sample), sample), direct_share(first, known(exact, sample), sample)
    for found, truth in (
        (c.slope, linregress(first, exact).slope),
        (c.pearson, pearsonr(first, exact).statistic),
        (share, (first @ exact) / (exact @ exact)),
    ):
        assert isinstance(found, Sampled) and found.value == pytest.approx(truth) and found.n == 72
    assert isinstance(c.slope, Sampled) and c.slope.low is None, "one neuron that was not drawn may decide it"
    assert isinstance(c.pearson, Sampled) and c.pearson.high is None


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_intervals_hold_what_all_neurons_give(noise: float) -> None:
    held: dict[str, list[bool]] = {"spearman": [], "direct": []}
    off: dict[str, list[float]] = {"pearson": [], "slope": [], "direct": []}
    for seed in range(120):
        first, exact = planted(seed, noise)
        direct = exact * np.random.default_rng([2, seed]).uniform(0.2, 1.2, NEURONS)
        sample = drawn(first, DRAWN, np.random.default_rng([1, seed]), top=32)
        c = calibrate(first, known(exact, sample), sample)
        share = direct_share(direct, known(exact, sample), sample)
        for name, found, truth in (
            ("pearson", c.pearson, pearsonr(first, exact).statistic),
            ("spearman", c.spearman, spearmanr(first, exact).statistic),
            ("slope", c.slope, linregress(first, exact).slope),
            ("direct", share, (direct @ exact) / (exact @ exact)),
        ):
            assert isinstance(found, Sampled)
            if name in off:
                off[name].append(found.value - truth)
            if name in held:
                assert found.low is not None and found.high is not None
                held[name].append(found.low <= truth <= found.high)
    assert all(np.mean(inside) >= 0.92 for inside in held.values()), {n: np.mean(h) for n, h in held.items()}
    assert all(abs(np.mean(d)) < 3 * np.std(d) / np.sqrt(120) for d in off.values()), off


def test_a_poor_first_order_ranks_nothing_and_says_why() -> None:
    some = sample_of(np.arange(0), np.arange(100))
    good, poor = (calibrate(*np.abs(planted(2, noise)), some).spearman for noise in (0.1, 3.0))
    assert ranks(good, False) is True
    refused = ranks(poor, False)
    assert isinstance(refused, Undefined) and "under 0.8" in refused.reason
    assert ranks(poor, True) is True, "where all are measured nothing rests on the first order"


def test_silent_layers_and_few_neurons_have_no_number() -> None:
    zeros, sample = np.zeros(100), sample_of(np.arange(4), np.arange(50), 100)
    c = calibrate(zeros, zeros, sample)
    assert isinstance(c.spearman, Undefined) and isinstance(c.error, Sampled) and c.error.value == 0.0
    assert isinstance(direct_share(zeros, zeros, sample), Undefined)
    five = sample_of(np.arange(4), np.arange(5), 100)
    few = calibrate(np.arange(100.0), np.arange(100.0), five)
    assert all(isinstance(number, Undefined) for number in vars(few).values())
    assert isinstance(direct_share(np.arange(100.0), np.arange(100.0), five), Undefined)
    in_top = calibrate(np.arange(100.0), np.arange(100.0), sample_of(np.arange(45), np.arange(50), 100))
    assert isinstance(in_top.spearman, Sampled) and isinstance(in_top.pearson, Undefined)
    assert in_top.pearson.reason == "5 measured neurons outside those that the first order chose, under 10"


def test_shares_of_direct_and_later_effects_make_one() -> None:
    direct, total = planted(4, 0.5)
    sample = drawn(total, 50, np.random.default_rng(0), top=32)
    shares = [direct_share(part, total, sample) for part in (direct, total - direct)]
    assert sum(s.value for s in shares if isinstance(s, Sampled)) == pytest.approx(1.0)


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
