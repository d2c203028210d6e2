"""Heavy tails: Pareto samples of known exponent, planted spectra, and SciPy's KS distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2, kstest, pareto
from support.random_sets import random_sets

from rtdyn.analyses.groups import correlations
from rtdyn.analyses.groups.heavytail import (
    HALF,
    LEAST_KS,
    MIN_K,
    RULES,
    TENTH,
    Hill,
    Spectra,
    hill_of_spectra,
    pareto_interval,
    spectra,
    standard_rows,
    undefined,
)
from rtdyn.analyses.statistics import compare
from rtdyn.capture.forward_pass import Capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.suites.suite import SuiteSpec
from rtdyn.undefined import Undefined


def gaussian(neurons: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((neurons, width)))


def by_hand(rows: np.ndarray, k: int) -> float:
    """Hill's α from the definition, one eigenvalue at a time."""
    scaled = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    values = sorted(np.linalg.eigvalsh(scaled @ scaled.T / rows.shape[1]), reverse=True)
    return 1 / (sum(np.log(values[j] / values[k]) for j in range(k)) / k)


# Hill's α


def spectra_of(rows: torch.Tensor, sets: np.ndarray) -> Spectra:
    return spectra(standard_rows(rows), sets)


def hill(rows: torch.Tensor, sets: np.ndarray, rule: str = TENTH, *, min_k: int = MIN_K) -> Hill:
    """Of each set's input rows."""
    return hill_of_spectra(spectra_of(rows, sets), rule, min_k=min_k)


def hill_of_eigenvalues(values: np.ndarray, rule: str = TENTH) -> Hill:
    """Of eigenvalues (s, n) ≥ 0 in any order, all of whose n count."""
    return hill_of_spectra(Spectra(-np.sort(-values, axis=1), np.full(len(values), values.shape[1])), rule)


@pytest.mark.parametrize("alpha", [0.7, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("rule", [TENTH, HALF])
def test_the_interval_covers_the_true_exponent_95_times_in_100(alpha: float, n: int, rule: str) -> None:
    draws = 1500
    values = pareto.rvs(alpha, scale=3.0, size=(draws, n), random_state=np.random.default_rng([n, int(10 * alpha)]))
    found = hill_of_eigenvalues(values, rule)
    assert (found.k == (n // 10 if rule == TENTH else n // 2)).all() and np.isfinite(found.alpha).all()
    covered = (found.low <= alpha) & (alpha <= found.high)
    # 16 binomial tests, each at the 0.01 % level
    assert binomtest(int(covered.sum()), draws, 0.95).pvalue > 1e-4
    assert binomtest(int((alpha < found.low).sum()), draws, 0.025).pvalue > 1e-4
    assert kstest(chi2.cdf(2 * found.k * alpha / found.alpha, 2 * found.k), "uniform").pvalue > 1e-4


def test_least_ks_is_near_the_exponent_but_the_interval_at_its_k_would_be_too_short() -> None:
    values = pareto.rvs(1.5, size=(400, 200), random_state=np.random.default_rng(0))
    found = hill_of_eigenvalues(values, LEAST_KS)
    assert np.median(found.alpha) == pytest.approx(1.5, abs=0.1)
    assert np.isnan(found.low).all() and np.isnan(found.high).all()
    low, high = pareto_interval(found.alpha, found.k)
    assert 0.6 < ((low <= 1.5) & (high >= 1.5)).mean() < 0.95


def test_least_ks_finds_where_a_planted_tail_begins() -> None:
    rng = np.random.default_rng(0)
    tail = pareto.rvs(2.0, scale=10.0, size=(60, 100), random_state=rng)
    body = rng.uniform(0.0, 10.0, size=(60, 60))
    found = hill_of_eigenvalues(np.concatenate([body, tail], axis=1), LEAST_KS)
    assert 85 <= np.median(found.k) <= 105 and found.k.max() <= 115
    assert np.median(found.alpha) == pytest.approx(2.0, abs=0.2)


def test_least_ks_is_the_minimum_of_scipys_distance() -> None:
    values = np.random.default_rng(2).lognormal(size=(6, 40))
    found = hill_of_eigenvalues(values, LEAST_KS)
    for own, k, alpha in zip(np.sort(values)[:, ::-1], found.k, found.alpha, strict=True):
        distances = {}
        for tail in range(5, 40):
            shape = tail / np.log(own[:tail] / own[tail]).sum()
            distances[tail] = kstest(own[:tail] / own[tail], pareto(shape).cdf).statistic
        assert k == min(distances, key=distances.__getitem__)
        assert alpha == pytest.approx(k / np.log(own[:k] / own[k]).sum())


def test_exact_powers_give_the_closed_form() -> None:
    # λ_j = j^(−1/α): Σ_{j≤k} ln(λ_j/λ_{k+1}) = (k ln(k+1) − ln k!)/α
    for alpha in (0.5, 1.8):
        values = np.arange(1.0, 101) ** (-1 / alpha)
        k = np.arange(1, 11)
        expected = alpha * 10 / (10 * np.log(11) - np.log(k).sum())
        found = hill_of_eigenvalues(values[None], TENTH)
        assert found.alpha[0] == pytest.approx(expected) and found.k[0] == 10
        assert found.low[0] == pytest.approx(expected * chi2.ppf(0.025, 20) / 20)
        assert found.high[0] == pytest.approx(expected * chi2.ppf(0.975, 20) / 20)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    power=st.floats(0.2, 5.0),
    scale=st.floats(1e-6, 1e6),
)
def test_alpha_ignores_scale_and_order_and_divides_by_powers(rule: str, seed: int, power: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.pareto(2.0, size=(1, 60)) + 1
    first = hill_of_eigenvalues(values, rule)
    second = hill_of_eigenvalues(rng.permuted(scale * values**power, axis=1), rule)
    assert second.alpha == pytest.approx(first.alpha / power)
    assert (second.k == first.k).all()
    assert rule == LEAST_KS or first.low < first.alpha < first.high


# Group matrices


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), neurons=st.integers(12, 40), width=st.integers(16, 60), size=st.integers(12, 40))
def test_agrees_with_the_definition_row_by_row(seed: int, neurons: int, width: int, size: int) -> None:
    size = min(size, neurons)
    rng = np.random.default_rng(seed)
    scale, offset = torch.from_numpy(rng.lognormal(size=(2, neurons, 1)))
    rows = gaussian(neurons, width, seed) * scale + offset
    sets = rng.random((3, neurons)).argsort(1)[:, :size]
    found = hill(rows, sets, HALF)
    for own, alpha in zip(sets, found.alpha, strict=True):
        if size // 2 < width - 1:
            assert alpha == pytest.approx(by_hand(rows[own].numpy(), size // 2))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rule=st.sampled_from(RULES))
def test_each_rows_scale_and_offset_and_all_orders_do_not_matter(seed: int, rule: str) -> None:
    rng = np.random.default_rng(seed)
    rows = gaussian(30, 50, seed)
    changed = rows * torch.from_numpy(rng.lognormal(size=(30, 1)) * rng.choice([-1, 1], (30, 1))) + rng.normal()
    changed = changed[:, torch.from_numpy(rng.permutation(50))]
    own = rng.permutation(30)[:20]
    first = hill(rows, own[None], rule, min_k=1)
    second = hill(changed, rng.permutation(own)[None], rule, min_k=1)
    assert first.alpha == pytest.approx(second.alpha) and first.k == second.k


def test_one_product_of_all_rows_gives_the_same_spectra(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, sets = gaussian(40, 30), np.random.default_rng(0).random((7, 40)).argsort(1)[:, :12]
    each, once = standard_rows(rows), standard_rows(rows, 40**2)
    assert each.gram is None and once.gram is not None
    np.testing.assert_allclose(spectra(once, sets).eigenvalues, spectra(each, sets).eigenvalues, rtol=1e-10)
    # more neurons than inputs: the other product is smaller
    wide = np.arange(35)[None]
    assert np.array_equal(spectra(once, wide).eigenvalues, spectra(each, wide).eigenvalues)
    monkeypatch.setattr(correlations, "CORRELATION_BYTES", 8 * 40**2 - 1)
    assert standard_rows(rows, 40**2).gram is None


@pytest.mark.parametrize(("neurons", "width"), [(20, 50), (50, 20), (20, 20)])
def test_the_trace_is_n_and_eigenvalues_beyond_the_rank_are_exactly_0(neurons: int, width: int) -> None:
    found = spectra_of(gaussian(neurons, width) + 5, np.arange(neurons)[None])
    assert found.eigenvalues.sum() == pytest.approx(neurons)
    # centring costs one dimension
    assert (found.eigenvalues[0] > 0).sum() == min(neurons, width - 1)
    assert found.live[0] == neurons


def test_a_tail_beyond_the_rank_is_undefined() -> None:
    given_spectra = spectra_of(gaussian(60, 20), np.arange(60)[None])
    assert np.isnan(hill_of_spectra(given_spectra, HALF).alpha[0])
    assert undefined(given_spectra, HALF) == [Undefined("19 eigenvalues above 0, under the 31 that a tail of 30 needs")]
    assert np.isfinite(hill_of_spectra(given_spectra, TENTH).alpha[0])
    least = hill_of_spectra(given_spectra, LEAST_KS)
    assert np.isfinite(least.alpha[0]) and least.k[0] <= 18
    copies = gaussian(4, 30).repeat(10, 1)
    for rule in RULES:
        assert np.isnan(hill(copies, np.arange(40)[None], rule, min_k=4).alpha[0])
    assert undefined(spectra_of(copies, np.arange(40)[None]), LEAST_KS) == [
        Undefined("4 eigenvalues above 0, under the 6 that a tail of 5 needs")
    ]


def test_constant_rows_leave_the_group() -> None:
    rows = gaussian(70, 90)
    rows[60:] = torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None]
    for rule in RULES:
        both = hill(rows, np.arange(70)[None], rule)
        without = hill(rows, np.arange(60)[None], rule)
        assert both.alpha == pytest.approx(without.alpha) and both.k == without.k
    assert spectra_of(rows, np.arange(70)[None]).live[0] == 60
    nothing = spectra_of(rows, np.arange(60, 70)[None])
    assert nothing.live[0] == 0
    assert undefined(nothing, TENTH) == [Undefined("a tail of 0 eigenvalues of 0 neurons, under 5")]


def test_small_groups_and_equal_eigenvalues_are_undefined() -> None:
    rows = gaussian(60, 80)
    for n, defined, authors in ((49, False, True), (50, True, True), (2, False, True), (1, False, False)):
        sets = np.arange(n)[None]
        assert np.isfinite(hill(rows, sets, TENTH).alpha[0]) == defined
        loose = hill(rows, sets, TENTH, min_k=1)
        assert loose.k[0] == max(1, n // 10) and np.isfinite(loose.alpha[0]) == authors
        assert np.isfinite(loose.low[0]) == np.isfinite(loose.high[0]) == authors
    assert undefined(spectra_of(rows, np.arange(49)[None]), TENTH) == [
        Undefined("a tail of 4 eigenvalues of 49 neurons, under 5")
    ]
    assert undefined(spectra_of(rows, np.arange(50)[None]), TENTH) == [None]
    noise = gaussian(40, 20).numpy()
    orthogonal = np.linalg.qr(noise - noise.mean(0))[0].T
    flat = spectra_of(torch.from_numpy(orthogonal), np.arange(20)[None])
    assert flat.eigenvalues[0] == pytest.approx(1)
    for rule in (HALF, LEAST_KS):
        assert undefined(flat, rule) == [Undefined("the largest eigenvalues are equal")]
        assert np.isnan(hill_of_spectra(flat, rule).alpha[0])


def test_no_sets_and_no_neurons() -> None:
    rows = gaussian(10, 20)
    for rule in RULES:
        assert hill(rows, np.empty((0, 5), dtype=np.int64), rule).alpha.shape == (0,)
        assert np.isnan(hill(rows, np.empty((2, 0), dtype=np.int64), rule).alpha).all()
    with pytest.raises(ValueError, match="no rule 'third'"):
        hill(rows, np.arange(10)[None], "third")


def test_the_tenth_is_the_floor_of_the_papers_product() -> None:
    n = np.arange(1, 30_000)
    assert (n // 10 == (n * 0.1).astype(int)).all() and (n // 2 == (n * 0.5).astype(int)).all()


@pytest.mark.slow
def test_p_values_are_uniform_for_rows_that_are_exchangeable() -> None:
    # KS at n = 150 and the 0.1 % level, for each rule
    rng = np.random.default_rng(0)
    p_values: dict[str, list[float]] = {rule: [] for rule in RULES}
    for _ in range(150):
        rows = torch.from_numpy(rng.standard_normal((40, 24)))
        sets = random_sets(np.arange(12), 40, 199, rng)
        assert not isinstance(sets, Undefined)
        for rule in RULES:
            own = hill(rows, np.arange(12)[None], rule, min_k=1)
            against = compare(float(own.alpha[0]), hill(rows, sets, rule, min_k=1).alpha)
            assert not isinstance(against, Undefined)
            p_values[rule].append(against.p_value)
    for rule in RULES:
        assert kstest(p_values[rule], "uniform").pvalue > 0.001, rule


def test_a_planted_heavy_group_stands_out_of_its_null() -> None:
    rng = np.random.default_rng(0)
    rows = gaussian(200, 64)
    rows[:60] += 3 * torch.from_numpy(rng.standard_normal((60, 3)) * [3, 1, 0.5]) @ gaussian(3, 64, 1)
    sets = random_sets(np.arange(60), 200, 199, rng)
    assert not isinstance(sets, Undefined)
    own = float(hill(rows, np.arange(60)[None], TENTH).alpha[0])
    against = compare(own, hill(rows, sets, TENTH).alpha)
    assert not isinstance(against, Undefined)
    assert own < against.null_mean and against.p_value == pytest.approx(2 / 200)


# Trained checkpoints


@pytest.mark.parametrize("step", [1, 512, 4000])
def test_trained_checkpoints(captured: Callable[[int], Capture], tiny: SuiteSpec, step: int) -> None:
    model = load_model(fetch_local(tiny, step), "cpu")
    rows = model.gpt_neox.layers[-1].mlp.dense_h_to_4h.weight
    assert len(rows) == captured(step).activations.shape[1]
    sets = np.random.default_rng(step).random((3, len(rows))).argsort(1)[:, :82]
    for rule, k in ((TENTH, 8), (HALF, 41)):
        for own, alpha in zip(sets, hill(rows, sets, rule).alpha, strict=True):
            assert alpha == pytest.approx(by_hand(rows[own].detach().double().numpy(), k))
    assert np.isfinite(hill(rows, sets, LEAST_KS).alpha).all()
