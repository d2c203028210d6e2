"""The null space of the unembedding: against an SVD, by chance and on real checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from analyses.influence.test_ablation import with_readout
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.frozen import family, rows_of

from rtdyn.analyses.mediation.null_space import NullSpace, lowest_directions, null_space
from rtdyn.capture.forward_pass import Capture


def share_in(captured: Capture, k: int) -> NullSpace:
    return null_space(captured, lowest_directions(captured.anatomy.readout, k))


def test_null_space_of_a_diagonal_unembedding_is_read_off() -> None:
    one = family(0, "RMS norm")
    d, v = 8, 60
    centred = torch.randn(v, d, generator=torch.Generator().manual_seed(1)).double()
    centred = torch.linalg.qr(centred - centred.mean(0))[0]
    one = with_readout(one, gain=torch.ones(d), unembedding=(centred * torch.arange(1, d + 1)).float() + 5.0)
    rows = torch.eye(d)[[0, 1, 2, 7]].clone()
    rows = torch.cat([rows, torch.tensor([[3.0, 4.0] + [0.0] * 6, [0.0] * 8])])
    got = share_in(rows_of(one, rows), 1)
    torch.testing.assert_close(got.squared_share[:5], torch.tensor([1, 0, 0, 0, 9 / 25]).double(), atol=1e-5, rtol=0)
    assert got.reason == (*[None] * 5, "the neuron writes nothing") and torch.isnan(got.squared_share[5])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), kind=st.sampled_from(["layer norm", "RMS norm"]))
def test_null_space_share_matches_an_svd_and_rotations_change_nothing(seed: int, k: int, kind: str) -> None:
    one = family(seed, kind)
    readout = one.anatomy.readout
    got = share_in(one, k)
    u = readout.unembedding.double()
    w = one.anatomy.output_rows.double()
    folded = (u - u.mean(0)) * readout.gain.double()
    if readout.centred:
        folded, w = folded - folded.mean(1, keepdim=True), w - w.mean(1, keepdim=True)
    right = np.linalg.svd(folded.numpy())[2][: 7 if readout.centred else 8]
    expected = ((w.numpy() @ right[-k:].T) ** 2).sum(1) / (w.numpy() ** 2).sum(1)
    np.testing.assert_allclose(got.squared_share, expected, atol=1e-8)
    if kind == "RMS norm":
        rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)))[0]
        plain = with_readout(one, gain=torch.ones(8))
        turned = rows_of(
            with_readout(plain, unembedding=readout.unembedding @ rotation), one.anatomy.output_rows @ rotation
        )
        torch.testing.assert_close(
            share_in(plain, k).squared_share, share_in(turned, k).squared_share, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("kind", ["layer norm", "RMS norm"])
def test_random_rows_have_the_share_of_a_beta_distribution(kind: str) -> None:
    one = family(9, kind)
    one = rows_of(one, torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)))
    got = share_in(one, 2)
    dimensions = 7 if kind == "layer norm" else 8
    expected = stats.beta(1, (dimensions - 2) / 2)
    assert float(got.squared_share.mean()) == pytest.approx(2 / dimensions, abs=4 * expected.std() / 4000**0.5)
    assert stats.kstest(got.squared_share.numpy(), expected.cdf).pvalue > 0.001


def test_directions_that_cannot_be_told_apart_leave_the_share_undefined() -> None:
    one = family(0, "RMS norm")
    got = share_in(
        with_readout(one, unembedding=one.anatomy.readout.unembedding * torch.tensor([1.0] * 4 + [0.0] * 4)), 2
    )
    assert set(got.reason) == {"the lowest singular directions do not differ from the next"}
    assert torch.isnan(got.squared_share).all()
    with pytest.raises(ValueError, match="between 1 and 7"):
        share_in(one, 8)


def test_null_space_of_real_checkpoints_grows_from_chance(captured: Callable[[int], Capture]) -> None:
    early, late = (null_space(captured(step)) for step in (1, 4000))
    d = captured(1).residual.shape[1]
    assert early.k == max(1, int(0.05 * (d - 1)))
    assert float(early.squared_share.mean()) == pytest.approx(early.k / (d - 1), rel=0.15)
    assert (late.squared_share >= 0).all() and (late.squared_share <= 1).all()
    assert all(reason is None for reason in late.reason)
