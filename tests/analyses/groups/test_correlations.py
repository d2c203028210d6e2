"""Correlations of activations: against numpy, in blocks, and what is undefined."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import correlation


def test_correlation_equals_numpys_in_any_blocks() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((200, 5)) @ rng.standard_normal((5, 37)) + rng.standard_normal((200, 37))
    z = z * 10.0 ** rng.integers(-8, 8, 37) + 3
    for block in (1, 7, 37, 1024):
        r = correlation(torch.from_numpy(z), block=block)
        np.testing.assert_allclose(r, np.corrcoef(z.T), atol=1e-6)
        assert (r == r.T).all()
        assert (r.diagonal() == 1).all()
        assert (np.abs(r) <= 1).all()


def test_correlation_of_constant_or_broken_columns_is_undefined() -> None:
    z = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    expected = np.corrcoef(z.numpy()[:, [0, 2, 5]].T)
    z[:, 1] = 0.1
    z[3, 3] = torch.nan
    z[4, 4] = torch.inf
    r = correlation(z, block=2)
    undefined = np.isin(np.arange(6), [1, 3, 4])
    assert np.isnan(r[undefined]).all()
    assert np.isnan(r[:, undefined]).all()
    np.testing.assert_allclose(r[np.ix_(~undefined, ~undefined)], expected, atol=1e-6)


@given(st.integers(0, 2**31), st.floats(-50, 50).filter(lambda v: abs(v) > 1e-3), st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_correlation_knows_neither_unit_nor_origin(seed: int, scale: float, shift: float) -> None:
    z = np.random.default_rng(seed).standard_normal((40, 6))
    moved = z.copy()
    moved[:, 2] = scale * z[:, 2] + shift
    signs = np.where(np.arange(6) == 2, np.sign(scale), 1)
    expected = correlation(torch.from_numpy(z)) * np.outer(signs, signs)
    np.testing.assert_allclose(correlation(torch.from_numpy(moved)), expected, atol=1e-5)
