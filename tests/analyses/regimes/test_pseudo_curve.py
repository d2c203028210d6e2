"""The curve of pseudo-classes against ranks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtdyn.analyses.influence.ablation import PseudoInfluence
from rtdyn.analyses.regimes.pseudo_curve import pseudo_curve


@pytest.mark.parametrize("rank_by", ["mean_abs", "abs_mean"])
def test_the_band_is_that_of_the_ranked_influences_widened_by_what_is_shared(rank_by: str) -> None:
    g = torch.Generator().manual_seed(0)
    sums = torch.randn(2, 40, 60, generator=g).double()
    n = torch.randint(3, 9, (2, 40), generator=g)
    pseudo = PseudoInfluence(n, sums, sums.abs() + 1)
    total = (sums if rank_by == "abs_mean" else sums.abs() + 1).sum(0).abs() / n.sum(0)[:, None]
    logs = np.log(np.sort(total.numpy(), axis=1)[:, ::-1])
    plain, widened = (pseudo_curve(pseudo, shared, rank_by) for shared in (0.0, 0.6))
    assert plain.rank[0] == 1 and plain.rank[-1] == 60 and (np.diff(plain.rank) > 0).all()
    at = plain.rank - 1
    np.testing.assert_allclose(plain.mean, np.exp(logs.mean(0)[at]))
    np.testing.assert_allclose(plain.low, np.exp(np.quantile(logs, 0.025, axis=0)[at]))
    np.testing.assert_allclose(plain.high, np.exp(np.quantile(logs, 0.975, axis=0)[at]))
    np.testing.assert_allclose(np.log(widened.high / widened.mean), 2 * np.log(plain.high / plain.mean))
    np.testing.assert_allclose(widened.mean, plain.mean)


def test_a_pseudo_class_without_influence_leaves_no_finite_mean() -> None:
    sums = torch.ones(2, 3, 20, dtype=torch.float64)
    sums[:, 0, 5:] = 0
    curve = pseudo_curve(PseudoInfluence(torch.full((2, 3), 4), sums, sums), 0.0, "mean_abs")
    assert np.isfinite(curve.mean[:5]).all() and (curve.mean[5:] == 0).all() and not np.isfinite(curve.high[5:]).all()
