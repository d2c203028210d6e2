"""Mediation, confidence and null space against float64 brute force, closed forms and planted neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from analyses.influence.test_ablation import synthetic, with_readout
from analyses.influence.test_summary import assert_hall
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frozen import (
    BAND,
    COUNTS,
    GIB,
    PADDING,
    STEPS,
    TYPES,
    exact_confidence,
    family,
    frozen_deltas,
    frozen_intervals,
    influences,
    logits_of,
    planted,
    projection,
)

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.influence.unembedding import Projection
from rtdyn.analyses.mediation.confidence import confidence
from rtdyn.analyses.mediation.equal_numbers import equal_numbers
from rtdyn.analyses.mediation.frozen import frozen_influence, mediated_share, unigram_direction
from rtdyn.analyses.statistics import jackknife_se
from rtdyn.capture.forward_pass import Capture
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import ClassPositions
from rtdyn.undefined import Undefined


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["layer norm", "RMS norm", "post-norm"]),
    longtail=st.booleans(),
    scale=st.sampled_from([0.01, 0.5, 5.0, 50.0]),
)
def test_every_interval_holds_the_frozen_delta(seed: int, kind: str, longtail: bool, scale: float) -> None:
    one, by = family(seed, kind, scale), projection(longtail)
    expected = frozen_deltas(one, by.direction, by.kept)
    for tolerance in (0.0, 1e-5, 1e9):
        delta, width, _ = frozen_intervals(one, by, tolerance)
        assert ((delta - expected).abs() <= width + 1e-11 * (1 + expected.abs())).all()
    assert (frozen_intervals(one, by, 0.0)[1] < 1e-4 * (1 + expected.abs())).all()


@pytest.mark.parametrize("longtail", [False, True])
def test_wild_shifts_are_summed_from_the_logits_themselves(longtail: bool) -> None:
    one, by = synthetic(seed=2, v=TYPES), projection(longtail)
    one = with_readout(one, gain=one.anatomy.readout.gain * 300)
    expected = frozen_deltas(one, by.direction, by.kept)
    delta, width, refined = frozen_intervals(one, by, 1e-5)
    assert expected.abs().max() > 50 and refined > 0
    assert ((delta - expected).abs() <= width + 1e-11 * (1 + expected.abs())).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), constant=st.floats(-5, 5), longtail=st.booleans())
def test_a_row_common_to_all_types_changes_no_frozen_delta(seed: int, constant: float, longtail: bool) -> None:
    one, by = family(seed, "layer norm"), projection(longtail)
    moved = with_readout(one, unembedding=one.anatomy.readout.unembedding + constant)
    ours, theirs = (frozen_intervals(c, by, 0.0) for c in (one, moved))
    assert ((ours[0] - theirs[0]).abs() <= 1e-4).all()


def test_the_direction_is_the_centred_unit_log_frequency() -> None:
    full, tail = projection(), projection(longtail=True)
    log_f = np.log(COUNTS + 1.0)
    centred = np.append(log_f - log_f.mean(), np.zeros(PADDING))
    np.testing.assert_allclose(full.direction, centred / np.linalg.norm(centred))
    np.testing.assert_allclose(tail.direction, centred * BAND / np.linalg.norm(centred * BAND))
    assert full.kept is None and tail.kept is not None and (tail.kept.numpy() == BAND).all()
    assert unigram_direction(np.full(9, 4), 9) == Undefined("all counted types are equally frequent")
    empty = unigram_direction(COUNTS, TYPES, np.zeros(TYPES, dtype=bool))
    assert empty == Undefined("the band has no unigram direction")
    with pytest.raises(ValueError, match="more than the 5 logits"):
        unigram_direction(COUNTS, 5)


def test_a_write_along_the_direction_is_all_mediated_and_one_across_it_not_at_all() -> None:
    one = planted(3)
    result = influences(one, tolerance=0.0)
    got = mediated_share(frozen_influence(one, projection(), result.classes, relative=0.0)["rare"])
    # ε = 10⁶ makes the norm a constant scale, up to 10⁻⁶ of itself
    assert got.value[0] == pytest.approx(1.0, abs=1e-4)
    assert got.value[1] == pytest.approx(0.0, abs=1e-4)
    assert 0.05 < got.value[2] < 0.95
    assert torch.isfinite(got.se[2]) and torch.isnan(got.value[5]) and torch.isnan(got.se[5])
    assert got.reason == (*[None] * 5, "ablation changes nothing")
    assert result.classes["rare"].mean_abs[5] == 0


@pytest.mark.parametrize("longtail", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_mediation_of_real_checkpoints_is_within_its_bound(
    step: int, longtail: bool, captured: Callable[[int], Capture], evaluation: Evaluation
) -> None:
    one = captured(step)
    band = evaluation.classes.named("rare").types if longtail else None
    by = unigram_direction(evaluation.counts.counts, 2560, band)
    assert isinstance(by, Projection)
    quick = influences(one)
    frozen = frozen_influence(one, by, quick.classes)
    some = torch.arange(7, 512, 64)
    small = replace(
        one,
        activations=one.activations[:, some],
        moments=replace(one.moments, mean=one.moments.mean[some]),
        anatomy=replace(one.anatomy, output_rows=one.anatomy.output_rows[some]),
    )
    exact_frozen = frozen_deltas(small, by.direction, by.kept)
    before, after = logits_of(small, list(range(len(some))))
    target = torch.from_numpy(one.positions.target)[:, None]
    exact = torch.stack([(before.log_softmax(1) - x.log_softmax(1)).gather(1, target)[:, 0] for x in after], 1)
    for name, c in quick.classes.items():
        member = torch.from_numpy(one.positions.members(name))
        means = [v[member].abs().mean(0) for v in (exact_frozen, exact)]
        assert (frozen[name].error_bound <= (0.01 * c.mean_abs).clamp(min=1e-5)).all()
        assert ((frozen[name].mean_abs[some] - means[0]).abs() <= frozen[name].error_bound[some] + 1e-12).all()
        got = mediated_share(frozen[name])
        defined = ~torch.isnan(got.value)
        assert defined.tolist() == [reason is None for reason in got.reason]
        assert defined[some].sum() > 4
        miss = (got.value[some] - (1 - means[0] / means[1])).abs() - got.error_bound[some]
        assert (miss[defined[some]] <= 0).all()
        left = [sums[:, 3].sum() - sums[:, 3] for sums in (frozen[name].window_abs_sum, c.window_abs_sum)]
        if got.reason[3] is None:
            assert float(got.se[3]) == pytest.approx(float(jackknife_se((left[0] / left[1]).numpy())))


@pytest.mark.slow
def test_standard_errors_leave_out_a_piece_of_text_at_a_time(captured: Callable[[int], Capture]) -> None:
    one = captured(4000)
    cluster = np.arange(one.positions.window.max() + 1) // 5
    quick = influence(one, torch.full((2560,), -1), 1, cluster=cluster).classes
    frozen = frozen_influence(one, projection(counts=np.arange(2560), logits=2560), quick)
    for name, c in quick.items():
        got, member = mediated_share(frozen[name], cluster), one.positions.members(name)
        labels = cluster[c.window_ids.numpy()]
        sums = frozen[name].window_abs_sum.numpy(), c.window_abs_sum.numpy()
        left = [[v[labels != k].sum(0) for k in np.unique(labels)] for v in sums]
        defined = ~torch.isnan(got.value).numpy()
        assert defined.sum() > 100
        np.testing.assert_allclose(got.se.numpy()[defined], jackknife_se(np.divide(*left))[defined], rtol=1e-6)
        found, alone = (
            confidence(one, np.arange(2560), np.array([0]), cluster=labelled).classes[name]
            for labelled in (cluster, None)
        )
        assert found.entropy.clusters == found.kl.clusters == c.clusters == len(np.unique(labels))
        assert alone.entropy.clusters == len(c.window_ids)
        assert alone.entropy.value == pytest.approx(found.entropy.value)
        entropy = exact_confidence(one, np.arange(2560), [0])[0].numpy()[member]
        pieces = cluster[one.positions.window[member]]
        residuals = np.array([(entropy[pieces == k] - entropy.mean()).sum() for k in np.unique(pieces)])
        g, n = len(residuals), np.unique(pieces, return_counts=True)[1]
        assert_hall(found.entropy, residuals, n, np.sqrt((residuals**2).sum() * g / (g - 1)) / len(entropy))


def test_at_fewer_positions_both_influences_are_those_of_these_positions() -> None:
    one = family(1, "layer norm")
    flat = one.positions.flat
    classes = tuple(ClassPositions(*c) for c in (("rare", 3, flat[::4]), ("common", 9, np.setdiff1d(flat, flat[::4]))))
    one = replace(one, positions=replace(one.positions, classes=classes))
    fewer, result = equal_numbers(one), influences(one)
    assert len(fewer.residual) < len(one.residual)
    frozen = frozen_influence(fewer, projection(), result.classes)
    alone = frozen_influence(fewer, projection(), influences(fewer).classes)
    for name, c in influences(fewer).classes.items():
        whole = frozen[name].whole
        assert ((whole.mean_abs - c.mean_abs).abs() <= whole.error_bound + c.error_bound).all()
        torch.testing.assert_close(whole.window_abs_sum.sum(0) / c.n, whole.mean_abs)
        assert ((frozen[name].mean_abs - alone[name].mean_abs).abs() <= 2 * frozen[name].error_bound + 1e-5).all()
        share, other = mediated_share(frozen[name]), mediated_share(alone[name])
        assert ((share.value - other.value).abs() <= share.error_bound + other.error_bound).all()
    assert frozen["rare"].whole.window_abs_sum is result.classes["rare"].window_abs_sum


def test_influence_within_its_bound_leaves_mediation_undefined() -> None:
    one = family(1, "layer norm", scale=1e-3)
    result = influences(one, tolerance=1.0)
    c = replace(result.classes["rare"], error_bound=torch.full((10,), 1.0, dtype=torch.float64))
    got = mediated_share(frozen_influence(one, projection(), {"rare": c})["rare"])
    assert torch.isnan(got.value).all() and set(got.reason) == {"mean |Δ| is within its error bound"}


def test_a_single_window_has_a_value_but_no_standard_error() -> None:
    one = family(4, "layer norm")
    one = replace(one, positions=replace(one.positions, window=np.zeros(12, dtype=np.int64)))
    result = influences(one)
    got = mediated_share(frozen_influence(one, projection(), result.classes)["rare"])
    assert torch.isfinite(got.value).all() and torch.isnan(got.se).all()


def test_a_capture_cut_into_blocks_gives_the_same(captured: Callable[[int], Capture]) -> None:
    one = captured(4000)
    counts = np.arange(2560)
    whole, split = (confidence(one, counts, np.arange(6), memory_bytes=m).classes["rare"] for m in (GIB, 2560 * 900))
    for name in ("entropy_change", "kl_change"):
        difference = (getattr(whole, name) - getattr(split, name)).abs()
        assert (difference <= whole.error_bound + split.error_bound).all()
