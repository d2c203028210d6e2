"""Entropy and divergence before and after ablation: against float64 distributions and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.frozen import COUNTS, PADDING, STEPS, TYPES, check_confidence, family, planted

from rtdyn.analyses.influence import fused
from rtdyn.analyses.mediation.confidence import confidence
from rtdyn.analyses.mediation.vocabulary_sums import vocabulary_sums
from rtdyn.capture.forward_pass import Capture
from rtdyn.text.evaluation import Evaluation


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["layer norm", "RMS norm", "post-norm"]),
    padding=st.sampled_from([0, PADDING]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    tolerance=st.sampled_from([0.0, 1e-5, 1.0]),
)
def test_confidence_is_that_of_the_float64_distributions(
    seed: int, kind: str, padding: int, scale: float, tolerance: float
) -> None:
    one = family(seed, kind, scale)
    counts = np.random.default_rng(seed).geometric(0.01, TYPES - padding)
    got = confidence(one, counts, np.array([7, 0, 3]), tolerance=tolerance)
    check_confidence(got, one, counts)
    assert tolerance > 0 or got.summed_in_double == 1
    c = got.classes["rare"]
    assert (c.error_bound <= max(tolerance, 1e-4)).all()


@pytest.mark.parametrize("step", STEPS)
def test_confidence_on_real_checkpoints(step: int, captured: Callable[[int], Capture], evaluation: Evaluation) -> None:
    one = captured(step)
    neurons = np.array([0, 17, 200, 511])
    got = confidence(one, evaluation.counts.counts, neurons)
    check_confidence(got, one, evaluation.counts.counts)
    assert got.summed_in_double < 0.2
    changed = got.classes["rare"].entropy_change.abs()
    assert (changed > 10 * got.classes["rare"].error_bound).any()


def test_a_neuron_that_scales_the_logits_changes_entropy_as_a_temperature_does() -> None:
    one = planted(5)
    rows = torch.zeros_like(one.anatomy.output_rows)
    rows[0, TYPES - 1] = 100.0
    # type V−1's row is 0, so that this neuron acts through the norm alone
    unembedding = torch.eye(TYPES)
    unembedding[-1] = 0
    unembedding -= unembedding.mean(0)
    unembedding[:, -1] = 0
    residual = one.residual.clone()
    residual[:, -1] = 0
    one = replace(one, residual=residual, anatomy=replace(one.anatomy, output_rows=rows, readout=replace(
        one.anatomy.readout, epsilon=1e-5, unembedding=unembedding)))  # fmt: skip
    got = confidence(one, COUNTS, np.array([0])).classes["rare"]
    c = one.moments.mean[0] - one.activations[:, 0].double()
    x = residual.double()
    sigma = [(x.square().mean(1) + 1e-5).sqrt(), ((x.square().sum(1) + (100 * c).square()) / TYPES + 1e-5).sqrt()]
    entropies = [stats.entropy(((x / s[:, None]) @ unembedding.double().T).softmax(1), axis=1).mean() for s in sigma]
    assert float(got.entropy_change[0]) == pytest.approx(entropies[1] - entropies[0], abs=float(got.error_bound[0]))
    assert float(got.entropy_change[0]) > 0.05


def test_constant_neurons_change_no_confidence() -> None:
    got = confidence(planted(2), COUNTS, np.array([5, 0])).classes["rare"]
    assert got.entropy_change[0] == got.kl_change[0] == got.error_bound[0] == 0
    assert got.entropy_change[1] != 0


def test_no_neurons_and_wrong_neurons() -> None:
    one = family(0, "layer norm")
    assert confidence(one, COUNTS, np.array([], dtype=np.int64)).classes["rare"].kl_change.shape == (0,)
    with pytest.raises(ValueError, match="between 0 and 9"):
        confidence(one, COUNTS, np.array([10]))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    v=st.sampled_from([1, 7, 1024, 1025, 3000]),
    directions=st.sampled_from([1, 2]),
    size=st.sampled_from([0.0, 1e-6, 1e-3, 0.49, 2.0, fused.LARGEST]),
)
def test_vocabulary_sums_are_right_to_float32(seed: int, v: int, directions: int, size: float) -> None:
    g = torch.Generator().manual_seed(seed)
    n, f = 37, 5
    p = torch.softmax(4 * torch.randn(n, v, generator=g), 1)
    weights = torch.randn(2, n, v, generator=g) * p
    m, q = torch.rand(directions, n, v, generator=g) * 2 - 1, torch.rand(f, v, generator=g) * 2 - 1
    a, t = (torch.rand(s, generator=g).double() * size / (1 + directions) for s in ((directions, n, f), (n, f)))
    known = max(1, v - 4)
    largest = torch.full((n, f), size, dtype=torch.float64)
    ours = vocabulary_sums(p, *weights, m, q, a, t, largest, known)
    z = torch.einsum("inf,inv->nfv", a, m.double()) + t[..., None] * q.double()
    tilt = torch.expm1(z)
    h = torch.where(z.abs() < 1e-4, z.square() / 2 * (1 + z / 3), tilt - z)
    values = [(w[:, None] * x).double() for w, x in ((p, h), (p, z * tilt), (weights[0], h), (weights[1], h))]
    for i, value in enumerate(values):
        for j, part in enumerate((slice(0, known), slice(known, v))):
            error = (ours[i, j] - value[..., part].sum(-1)).abs()
            scale = value[..., part].abs().sum(-1) + size * (p[:, None] * tilt.abs()).sum(-1) * 4
            assert (error <= 16 * 1.2e-7 * scale + 1e-30).all()
    assert (ours[0] > 0).any() or size == 0
