"""Mediation, confidence and null space where the logits are capped, against float64 brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from analyses.influence.test_ablation import with_readout
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frozen import (
    COUNTS,
    check_confidence,
    family,
    frozen_deltas,
    frozen_intervals,
    influences,
    projection,
)

from rtdyn.analyses.influence import capped as capped_sums
from rtdyn.analyses.mediation.confidence import confidence
from rtdyn.analyses.mediation.frozen import frozen_influence, mediated_share
from rtdyn.analyses.mediation.null_space import lowest_directions, null_space
from rtdyn.capture.forward_pass import Capture

KINDS = ["layer norm", "RMS norm", "post-norm"]


def capped(seed: int, kind: str, scale: float, cap: float, sharpness: float = 1.0) -> Capture:
    one = family(seed, kind, scale)
    # a row common to all types, which counts through the cap
    readout = one.anatomy.readout
    return with_readout(one, gain=sharpness * readout.gain, unembedding=readout.unembedding + 0.5, cap=cap)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    longtail=st.booleans(),
    scale=st.sampled_from([0.01, 0.5, 5.0]),
    sharpness=st.sampled_from([1.0, 30.0]),
)
def test_every_interval_holds_the_frozen_delta(
    seed: int, kind: str, longtail: bool, scale: float, sharpness: float
) -> None:
    one, by = capped(seed, kind, scale, 5.0, sharpness), projection(longtail)
    expected = frozen_deltas(one, by.direction, by.kept)
    delta, width, refined = frozen_intervals(one, by, 1e-5)
    assert refined == one.activations.numel()
    assert ((delta - expected).abs() <= width + 1e-11 * (1 + expected.abs())).all()
    assert sharpness > 1 or (width < 1e-3).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capped_sums, "sum_frozen", capped_sums.sum_in_double)
        other, width, _ = frozen_intervals(one, by, 1e-5)
    assert ((other - expected).abs() <= width + 1e-11 * (1 + expected.abs())).all()
    assert ((other - delta).abs() <= width).all()


def test_mediation_is_the_share_of_both_influences() -> None:
    one, by = capped(4, "RMS norm", 0.5, 5.0), projection()
    classes = influences(one).classes
    got = mediated_share(frozen_influence(one, by, classes)["rare"])
    member = torch.from_numpy(one.positions.members("rare"))
    frozen = frozen_deltas(one, by.direction)[member].abs().mean(0)
    plain = frozen_deltas(one, torch.zeros_like(by.direction))[member].abs().mean(0)
    assert ((got.value - (1 - frozen / plain)).abs() <= got.error_bound).all()
    uncapped = mediated_share(frozen_influence(with_readout(one, cap=None), by, classes)["rare"])
    assert (got.value - uncapped.value).abs().max() > 0.02


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    scale=st.sampled_from([1e-3, 0.5, 30.0]),
    sharpness=st.sampled_from([1.0, 10.0]),
)
def test_confidence_is_that_of_the_float64_distributions(seed: int, kind: str, scale: float, sharpness: float) -> None:
    one = capped(seed, kind, scale, 5.0, sharpness)
    got = confidence(one, COUNTS, np.array([7, 0, 3]))
    check_confidence(got, one, COUNTS)
    assert (got.classes["rare"].error_bound < 1e-4 * sharpness).all()


def test_neurons_that_never_vary_change_no_confidence() -> None:
    one = capped(2, "layer norm", 0.5, 5.0)
    still = replace(one.moments, minimum=one.moments.maximum.clone())
    got = confidence(replace(one, moments=still), COUNTS, np.array([1, 2])).classes["rare"]
    assert (got.entropy_change == 0).all() and (got.kl_change == 0).all() and (got.error_bound == 0).all()


@pytest.mark.parametrize("cap", [None, 5.0])
def test_a_constant_added_to_all_logits_is_in_the_null_space_without_a_cap_alone(cap: float | None) -> None:
    one = family(1, "RMS norm", f=2)
    d = one.anatomy.output_rows.shape[1]
    unembedding = 0.1 * torch.randn(30, d, generator=torch.Generator().manual_seed(1))
    unembedding[:, 0] = 50.0  # what reads dimension 0 adds a constant to all logits
    rows = torch.zeros(2, d)
    rows[0, 0] = rows[1, 1] = 1.0
    one = with_readout(one, unembedding=unembedding, gain=torch.ones(d), cap=cap)
    one = replace(one, anatomy=replace(one.anatomy, output_rows=rows))
    share = null_space(one, lowest_directions(one.anatomy.readout, 1)).squared_share
    assert float(share[0]) == pytest.approx(1.0 if cap is None else 0.0, abs=1e-3)
