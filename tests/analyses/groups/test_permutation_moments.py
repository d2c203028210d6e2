"""Moments over permutations: against every permutation of a few neurons, and against sets drawn in a layer."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.correlations import correlation
from rtdyn.analyses.groups.layer_forms import ACROSS, WITHIN, Q, _products, layer_forms, moments_of_group
from rtdyn.analyses.groups.nulls import permuted_sets
from rtdyn.analyses.groups.permutation_moments import Form, Sizes, moments
from rtdyn.analyses.groups.segregation import mean_correlation, segregation
from rtdyn.analyses.groups.set_sums import layer, set_sums
from rtdyn.analyses.kernels import graphs


@pytest.mark.parametrize("sets", [([0, 1], [1, 2]), ([0, 1, 2], [3, 4]), ([2], [2, 3, 4]), (range(6), [0]), ([], [1])])
def test_they_are_those_of_every_permutation(sets: tuple[Any, Any]) -> None:
    rng = np.random.default_rng(0)
    matrices = [m + m.T for m in rng.standard_normal((2, 6, 6))]
    off = [m - np.diag(np.diag(m)) for m in matrices]
    x, y = (np.isin(np.arange(6), list(s)).astype(float) for s in sets)
    orders = np.array(list(permutations(range(6))))
    forms = tuple(Form(np.diag(m), o.sum(1)) for m, o in zip(matrices, off, strict=True))
    inner = np.array([[(a * b).sum() for b in off] for a in off])
    values = [np.einsum("pi,ij,pj->p", v[orders], m, v[orders]) for v, m in zip((x, y), matrices, strict=True)]
    every = (values[0] + values[1]) / 2
    sizes = Sizes(int(x.sum()), int(y.sum()), int((x * y).sum()), 6)
    assert moments((forms[0], forms[1]), inner, sizes) == pytest.approx((every.mean(), every.std()), abs=1e-9)


@pytest.mark.slow
def test_those_in_a_layer_are_those_of_drawn_sets() -> None:
    rng = np.random.default_rng(1)
    signals = rng.standard_normal((400, 5)) @ rng.gamma(0.5, 1, (5, 120))
    halves = [torch.from_numpy(signals + 2 * rng.standard_normal((400, 120))) for _ in range(2)]
    layers = [layer(correlation(half)) for half in halves]
    members = np.arange(20), np.arange(12, 27)
    sets = permuted_sets(members, np.zeros(120, dtype=np.int64), 4000, rng)
    forms = layer_forms(layers)
    assert forms is not None
    found = moments_of_group(forms, Group("top", members, {}, 0.0, 0.0))
    drawn: dict[str, np.ndarray] = dict.fromkeys((Q, WITHIN, ACROSS), np.zeros(4000))
    for chosen, of_choice in enumerate(sets):
        sums = set_sums(layers[1 - chosen], of_choice)
        mean = mean_correlation(sums)
        of_half = {Q: segregation(sums).modularity, WITHIN: mean.within, ACROSS: mean.across}
        drawn = {metric: values + of_half[metric] / 2 for metric, values in drawn.items()}
    for metric, (mean_of, sd) in found.items():
        values = drawn[metric]
        assert mean_of == pytest.approx(values.mean(), abs=4 * sd / 4000**0.5), metric
        # a deviation of so many draws errs by 1.1 % of itself, somewhat more where tails are long
        assert sd == pytest.approx(values.std(ddof=1), rel=0.06), metric


def test_sums_by_blocks_are_those_of_the_loop() -> None:
    rng = np.random.default_rng(3)
    layers = [layer(correlation(torch.from_numpy(rng.standard_normal((30, 40))))) for _ in range(2)]
    strengths = np.stack([of_half.totals[0] for of_half in layers])
    r = [of_half.r.double().numpy() for of_half in layers]
    weights = [np.where(np.abs(of_half) >= 0.3, np.abs(of_half), 0) - np.eye(40) for of_half in r]
    along = [[k @ w @ k for k in strengths] for w in weights]
    loop = graphs.products(layers[0].r.numpy(), layers[1].r.numpy(), 0.3, strengths)
    np.testing.assert_allclose(loop, _products(*layers, strengths), rtol=1e-6)
    np.testing.assert_allclose(loop[0], [[(a * b).sum() for b in weights] for a in weights], rtol=1e-5)
    np.testing.assert_allclose(loop[2], along, rtol=1e-5)


def test_a_neuron_that_never_varies_leaves_moments_to_the_draws() -> None:
    values = torch.from_numpy(np.random.default_rng(2).standard_normal((50, 12)))
    still = values.clone()
    still[:, 3] = 1.0
    assert layer_forms([layer(correlation(values)), layer(correlation(still))]) is None
