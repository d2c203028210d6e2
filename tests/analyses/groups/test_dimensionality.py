"""Effective dimensionality: known spectra, invariances, numpy's PCA, the null, and trained checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from scipy.stats import zscore as scipy_zscore
from support.random_sets import random_sets

from rtdyn.analyses.groups import correlations
from rtdyn.analyses.groups import dimensionality as module
from rtdyn.analyses.groups.correlations import eigenvalues, standardised
from rtdyn.analyses.groups.dimensionality import set_dimensionality, undefined
from rtdyn.analyses.statistics import compare
from rtdyn.capture.forward_pass import Capture
from rtdyn.undefined import Undefined


def activations(positions: int, neurons: int, seed: int = 0) -> torch.Tensor:
    """Correlated columns of unlike scales and means."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((positions, neurons)) @ rng.standard_normal((neurons, neurons))
    return torch.from_numpy(values * rng.lognormal(size=neurons) + rng.normal(size=neurons) * 10)


def by_numpy(values: np.ndarray) -> tuple[int, float]:
    """d_eff and participation ratio by an SVD of numpy's z-scores, nothing shared with the module."""
    z = (values - values.mean(0)) / values.std(0)
    variance = np.linalg.svd(z, compute_uv=False) ** 2
    share = variance / variance.sum()
    k = 1
    while share[:k].sum() < 0.95:
        k += 1
    return k, 1 / (share**2).sum()


def orthonormal(positions: int, columns: int) -> np.ndarray:
    """Columns of mean 0, variance 1 and no correlation."""
    noise = np.random.default_rng(columns).standard_normal((positions, columns))
    return np.linalg.qr(noise - noise.mean(0))[0] * np.sqrt(positions)


@pytest.mark.parametrize("r", range(1, 61))
def test_equal_eigenvalues_give_95_percent_of_them_rounded_up(r: int) -> None:
    factors = orthonormal(640, r)
    for copies in (1, 2):
        n = r * copies
        if n < 2:
            continue
        z, _ = standardised(torch.from_numpy(np.tile(factors, copies)).float())
        found = set_dimensionality(z, np.arange(n)[None])
        assert found.d_eff[0] == -(-95 * r // 100)
        assert found.d_eff_share[0] == found.d_eff[0] / n
        assert found.participation_ratio[0] == pytest.approx(r, rel=1e-5)


@pytest.mark.parametrize("r", [20, 40, 60])
def test_round_off_does_not_add_a_component(r: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.95 r is whole here, so that one eigenvalue a hair too large lowers the share of the others below 0.95
    for positions in range(5 * r, 5 * r + 90, 3):
        z, _ = standardised(torch.from_numpy(orthonormal(positions, r)))
        assert set_dimensionality(z, np.arange(r)[None]).d_eff[0] == 95 * r // 100
    uneven = np.append(np.ones(r - 1), 1 + 1e-12)[None]
    monkeypatch.setattr(module, "eigenvalues", lambda *_args, **_kwargs: uneven)
    assert set_dimensionality(z, np.arange(r)[None]).d_eff[0] == 95 * r // 100
    uneven[0, -1] = 1 + 1e-6
    assert set_dimensionality(z, np.arange(r)[None]).d_eff[0] == 95 * r // 100 + 1


def test_planted_two_by_two_correlation() -> None:
    a, b = orthonormal(500, 2).T
    for rho in (0.0, 0.5, 0.899, 0.901, 1.0):
        z, _ = standardised(torch.from_numpy(np.stack([a, rho * a + np.sqrt(1 - rho**2) * b], axis=1)))
        found = set_dimensionality(z, np.array([[0, 1]]))
        assert eigenvalues(z, np.array([[0, 1]]))[0] == pytest.approx([1 + rho, 1 - rho], abs=1e-12)
        assert found.d_eff[0] == (1 if (1 + rho) / 2 >= 0.95 else 2)
        assert found.participation_ratio[0] == pytest.approx(2 / (1 + rho**2))


def test_z_scores_are_scipys() -> None:
    values = activations(300, 7)
    z, live = standardised(values)
    assert live.all() and z.dtype == torch.float64
    np.testing.assert_allclose(z.numpy(), scipy_zscore(values.numpy()), atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    neurons=st.integers(2, 25),
    extra=st.integers(0, 60),
    size=st.integers(2, 25),
    count=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_numpys_svd(neurons: int, extra: int, size: int, count: int, seed: int) -> None:
    size = min(size, neurons)
    values = activations(5 * size + extra, neurons, seed)
    z, _ = standardised(values)
    sets = np.random.default_rng(seed).random((count, neurons)).argsort(1)[:, :size]
    found = set_dimensionality(z, sets)
    for i, own in enumerate(sets):
        d_eff, ratio = by_numpy(values[:, own].numpy())
        assert found.d_eff[i] == d_eff
        assert found.participation_ratio[i] == pytest.approx(ratio)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 12))
def test_order_scale_sign_and_offset_do_not_matter(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    values = activations(90, 15, seed)
    changed = values * torch.from_numpy(rng.lognormal(size=15) * rng.choice([-1, 1], 15)) + torch.arange(15)
    own = rng.permutation(15)[:size]
    first = set_dimensionality(standardised(values)[0], own[None])
    second = set_dimensionality(
        standardised(changed[torch.from_numpy(rng.permutation(90))])[0], rng.permutation(own)[None]
    )
    assert first.d_eff == second.d_eff
    assert first.participation_ratio == pytest.approx(second.participation_ratio)
    assert 1 <= first.participation_ratio[0] <= size and 1 <= first.d_eff[0] <= size


def test_every_way_of_making_the_matrices_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    z, _ = standardised(activations(60, 40))
    rng = np.random.default_rng(0)
    sets = rng.random((30, 40)).argsort(1)[:, :12]
    shared = eigenvalues(z, sets)
    np.testing.assert_allclose(eigenvalues(z, sets, chunk_bytes=1), shared, atol=1e-12)
    monkeypatch.setattr(correlations, "CORRELATION_BYTES", 0)
    np.testing.assert_allclose(eigenvalues(z, sets), shared, atol=1e-12)
    np.testing.assert_allclose(eigenvalues(z, sets, chunk_bytes=1), shared, atol=1e-12)


@pytest.mark.parametrize("product", [correlations.inner_products, correlations.by_blocks])
@pytest.mark.parametrize("neurons", [1, 3, 8, 9, 50])
def test_inner_products_are_the_product_and_exactly_symmetric(
    neurons: int, product: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    z = activations(20, neurons).double()
    for columns in (z, z.T.contiguous().T, z.T.contiguous()[:, :20].T, z[:, ::2], z.float()[:, 1:]):
        found = product(columns)
        assert found.dtype == columns.dtype
        tight = 1e-12 if columns.dtype == torch.float64 else 1e-5
        np.testing.assert_allclose(found, columns.T @ columns, rtol=tight, atol=tight)
        assert torch.equal(found, found.T)
    assert product(torch.empty(4, 0)).shape == (0, 0)


def test_more_neurons_than_positions_leave_exact_zeros() -> None:
    z, _ = standardised(activations(10, 25))
    found = eigenvalues(z, np.arange(25)[None])[0]
    np.testing.assert_allclose(found[:9], np.linalg.eigvalsh(z.T @ z / 10)[::-1][:9], rtol=1e-9)
    assert (found[10:] == 0).all() and (np.diff(found) <= 0).all() and (found >= 0).all()


def test_constant_neurons_leave_the_group() -> None:
    values = activations(200, 10)
    values[:, [3, 7]] = torch.tensor([0.1, -2.7], dtype=torch.float64)
    z, live = standardised(values)
    assert live.sum() == 8 and not live[[3, 7]].any()
    with_constants = set_dimensionality(z, np.arange(10)[None])
    without = set_dimensionality(z, np.flatnonzero(live)[None])
    assert with_constants.live[0] == without.live[0] == 8
    assert with_constants.d_eff == without.d_eff and with_constants.d_eff_share == without.d_eff_share
    assert with_constants.participation_ratio == pytest.approx(without.participation_ratio)


def test_undefined_values_are_nan_beside_defined_ones() -> None:
    values = activations(50, 14)
    values[:, 10:] = 0
    z, _ = standardised(values)
    # 11 live of a set need 55 positions; 10 need 50; constants do not count; one or none is too few
    for own, live, reason in (
        (np.arange(10), 10, None),
        (np.arange(4, 14), 6, None),
        (np.array([0, 10, 11, 12]), 1, Undefined("neurons that vary: 1, under 2")),
        (np.array([10, 11, 12, 13]), 0, Undefined("neurons that vary: 0, under 2")),
        (np.array([2]), 1, Undefined("neurons that vary: 1, under 2")),
    ):
        found = set_dimensionality(z, own[None])
        assert found.live[0] == live and undefined(live, 50) == reason
        for one in (found.d_eff, found.d_eff_share, found.participation_ratio):
            assert np.isnan(one[0]) == (reason is not None)
    mixed = set_dimensionality(z, np.array([[0, 1, 2], [0, 10, 11]]))
    assert np.isfinite(mixed.d_eff[0]) and np.isnan(mixed.d_eff[1])
    assert np.isnan(set_dimensionality(z[:49], np.arange(10)[None]).d_eff[0])
    assert undefined(300, 1133) == Undefined("1,133 positions for 300 neurons, under 5 each")
    assert undefined(2, 10) is None and undefined(2, 9) is not None


def test_empty_input() -> None:
    z, live = standardised(torch.empty(0, 5))
    assert z.shape == (0, 5) and not live.any()
    assert np.isnan(set_dimensionality(z, np.arange(5)[None]).d_eff).all()
    z, _ = standardised(activations(50, 5))
    assert set_dimensionality(z, np.empty((0, 3), dtype=np.int64)).d_eff.shape == (0,)
    assert np.isnan(set_dimensionality(z, np.empty((2, 0), dtype=np.int64)).d_eff).all()


def test_p_values_are_uniform_for_neurons_that_are_exchangeable() -> None:
    # participation ratio, since d_eff is whole and its ties make p conservative; KS at n = 200, 0.1 % level
    rng = np.random.default_rng(0)
    group = np.arange(8)
    p_values = []
    for _ in range(200):
        z, _live = standardised(torch.from_numpy(rng.standard_normal((60, 48))))
        sets = random_sets(group, 48, 199, rng)
        assert not isinstance(sets, Undefined)
        against = compare(
            float(set_dimensionality(z, group[None]).participation_ratio[0]),
            set_dimensionality(z, sets).participation_ratio,
        )
        assert not isinstance(against, Undefined)
        p_values.append(against.p_value)
    assert kstest(p_values, "uniform").pvalue > 0.001


def test_a_coordinated_group_stands_out_of_its_null() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((300, 100))
    values[:, :10] += 2 * rng.standard_normal((300, 1))
    z, _ = standardised(torch.from_numpy(values))
    sets = random_sets(np.arange(10), 100, 999, rng)
    assert not isinstance(sets, Undefined)
    own, null = set_dimensionality(z, np.arange(10)[None]), set_dimensionality(z, sets)
    for value, drawn in ((own.d_eff, null.d_eff), (own.participation_ratio, null.participation_ratio)):
        against = compare(float(value[0]), drawn)
        assert not isinstance(against, Undefined) and against.p_value == pytest.approx(2 / 1000)
        assert value[0] < against.null_mean


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 512, 4000])
def test_trained_checkpoints_agree_with_numpy(captured: Callable[[int], Capture], step: int) -> None:
    one = captured(step)
    rare = torch.from_numpy(np.flatnonzero(one.positions.members("rare")))
    values = one.activations[rare]
    z, live = standardised(values)
    assert live.all()
    size = min(32, len(values) // 5)
    sets = np.random.default_rng(step).random((4, values.shape[1])).argsort(1)[:, :size]
    found = set_dimensionality(z, sets)
    for i, own in enumerate(sets):
        d_eff, ratio = by_numpy(values[:, own].double().numpy())
        assert found.d_eff[i] == d_eff
        assert found.participation_ratio[i] == pytest.approx(ratio)
