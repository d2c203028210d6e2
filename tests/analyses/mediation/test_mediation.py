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
from scipy import stats
from torch import Tensor

from rtdyn.analyses.influence import fused
from rtdyn.analyses.influence.ablation import Influence, influence
from rtdyn.analyses.influence.certified import delta_blocks
from rtdyn.analyses.influence.unembedding import Projection
from rtdyn.analyses.mediation.confidence import Confidence, confidence
from rtdyn.analyses.mediation.equal_numbers import equal_numbers
from rtdyn.analyses.mediation.frozen import frozen_influence, mediated_share, unigram_direction
from rtdyn.analyses.mediation.null_space import NullSpace, lowest_directions, null_space
from rtdyn.analyses.mediation.vocabulary_sums import vocabulary_sums
from rtdyn.analyses.statistics import jackknife_se
from rtdyn.capture.forward_pass import Capture
from rtdyn.model.anatomy import PostNorm
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import ClassPositions
from rtdyn.undefined import Undefined

STEPS = (1, 512, 4000)
GIB = 2**30
TYPES, PADDING = 30, 3
COUNTS = np.random.default_rng(0).geometric(0.01, TYPES - PADDING)
BAND = np.arange(TYPES) % 3 == 1


def projection(longtail: bool = False, counts: np.ndarray = COUNTS, logits: int = TYPES) -> Projection:
    made = unigram_direction(counts, logits, np.arange(logits) % 3 == 1 if longtail else None)
    assert isinstance(made, Projection)
    return made


def influences(captured: Capture, **options: float) -> Influence:
    return influence(captured, torch.full((len(captured.anatomy.readout.unembedding),), -1), 1, **options)


def logits_of(captured: Capture, neurons: list[int]) -> tuple[Tensor, Tensor]:
    """Logits before (N, V) and after ablating each neuron (k, N, V), float64, by running norm and unembedding."""
    parts, readout = captured.anatomy, captured.anatomy.readout
    residual, activations = captured.residual.double(), captured.activations.double()
    rows = parts.output_rows.double()

    def rms(x: Tensor, epsilon: float) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()

    def head(r: Tensor) -> Tensor:
        x = r - r.mean(-1, keepdim=True) if readout.centred else r
        normed = rms(x, readout.epsilon) * readout.gain.double() + readout.shift.double()
        bias = 0.0 if readout.bias is None else readout.bias.double()
        return readout.capped(normed @ readout.unembedding.double().T + bias)

    def written(acts: Tensor) -> Tensor:
        out = acts @ rows
        return out if parts.post_norm is None else rms(out, parts.post_norm.epsilon) * parts.post_norm.gain.double()

    after = []
    for i in neurons:
        changed = activations.clone()
        changed[:, i] = captured.moments.mean[i]
        after.append(head(residual - written(activations) + written(changed)))
    return head(residual), torch.stack(after)


def frozen_deltas(captured: Capture, direction: Tensor, kept: Tensor | None = None) -> Tensor:
    """Δ_frozen (N, F): the ablated logits, common types put back, then adjusted to the old projection on û."""
    before, after = logits_of(captured, list(range(captured.activations.shape[1])))
    before, after = before - before.mean(-1, keepdim=True), after - after.mean(-1, keepdim=True)
    if kept is not None:
        after = torch.where(kept > 0, after, before)
    after = after + ((before @ direction) - (after @ direction))[..., None] * direction
    target = torch.from_numpy(captured.positions.target)[:, None]
    return torch.stack([(before.log_softmax(1) - x.log_softmax(1)).gather(1, target)[:, 0] for x in after], dim=1)


def family(seed: int, kind: str, scale: float = 0.5, f: int = 10) -> Capture:
    one = synthetic(seed, v=TYPES, scale=scale, f=f)
    if kind == "layer norm":
        return one
    one = replace(one, anatomy=replace(one.anatomy, readout=replace(one.anatomy.readout, centred=False)))
    if kind == "post-norm":
        gain = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        one = replace(one, anatomy=replace(one.anatomy, post_norm=PostNorm(gain, 1e-6)))
    return one


def frozen_intervals(one: Capture, by: Projection, tolerance: float) -> tuple[Tensor, Tensor, int]:
    members = [torch.ones(len(one.residual), dtype=torch.bool)]
    delta, width = torch.full((2, *one.activations.shape), torch.nan, dtype=torch.float64)
    refined = 0
    for block in delta_blocks(one, members, tolerance, GIB, projection=by):
        delta[block.rows, block.neurons] = block.delta
        width[block.rows, block.neurons] = block.half_width + block.rounding
        refined += block.refined
    return delta, width, refined


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


def planted(seed: int) -> Capture:
    """A model whose unembedding is the identity on V = d, so that a row is a direction of the vocabulary.

    The residual is orthogonal to rows 0 and 1, of which the first is û and the second orthogonal to it; row 2 mixes
    them. γ = 1 and no centring; the norm's change moves logits along the residual only, which is orthogonal to û.
    """
    g = torch.Generator().manual_seed(seed)
    one = synthetic(seed, n=40, d=TYPES, f=6, v=TYPES)
    u = projection().direction
    other = torch.randn(TYPES, generator=g).double()
    other -= other.mean() + (other @ u) * u
    other /= other.norm()
    basis = torch.stack([u, other])
    residual = one.residual.double()
    residual = residual - residual.mean(1, keepdim=True) - (residual @ basis.T) @ basis
    rows = one.anatomy.output_rows.clone()
    rows[0], rows[1], rows[2] = u.float(), other.float(), (u + other).float()
    activations = one.activations.clone()
    activations[:, 5] = 0.25
    moments = replace(
        one.moments,
        mean=activations.double().mean(0),
        minimum=activations.amin(0),
        maximum=activations.amax(0),
    )
    one = replace(
        one, residual=residual.float(), activations=activations, moments=moments,
        anatomy=replace(one.anatomy, output_rows=rows, readout=replace(
            one.anatomy.readout, centred=False, gain=torch.ones(TYPES), shift=torch.zeros(TYPES), epsilon=1e6,
            unembedding=1e3 * torch.eye(TYPES), bias=None)),
    )  # fmt: skip
    return one


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


def exact_confidence(one: Capture, counts: np.ndarray, neurons: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """H(p), KL(p‖f) (N,) and their changes (N, k) from scipy on float64 probabilities."""
    f = (counts + 1) / (counts + 1).sum()
    before, after = logits_of(one, neurons)

    def both(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
        p = logits.softmax(-1).numpy()
        known = p[..., : len(f)]
        return stats.entropy(p, axis=-1), stats.entropy(known, np.broadcast_to(f, known.shape), axis=-1)

    h, kl = (torch.from_numpy(v) for v in both(before))
    h_after, kl_after = (torch.from_numpy(v).T for v in both(after))
    return h, kl, h_after - h[:, None], kl_after - kl[:, None]


def check_confidence(got: Confidence, one: Capture, counts: np.ndarray, round_off: float = 1e-11) -> None:
    h, kl, h_change, kl_change = exact_confidence(one, counts, got.neurons.tolist())
    for name, c in got.classes.items():
        member = torch.from_numpy(one.positions.members(name))
        assert c.n == int(member.sum()) == int(c.window_n.sum())
        assert c.entropy.value == pytest.approx(float(h[member].mean()), rel=1e-9)
        assert c.kl.value == pytest.approx(float(kl[member].mean()), rel=1e-9)
        for ours, sums, theirs in (
            (c.entropy_change, c.window_entropy_change, h_change),
            (c.kl_change, c.window_kl_change, kl_change),
        ):
            expected = theirs[member].mean(0)
            assert ((ours - expected).abs() <= c.error_bound + round_off).all()
            torch.testing.assert_close(sums.sum(0) / c.n, ours)


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


def test_a_capture_cut_into_blocks_gives_the_same(captured: Callable[[int], Capture]) -> None:
    one = captured(4000)
    counts = np.arange(2560)
    whole, split = (confidence(one, counts, np.arange(6), memory_bytes=m).classes["rare"] for m in (GIB, 2560 * 900))
    for name in ("entropy_change", "kl_change"):
        difference = (getattr(whole, name) - getattr(split, name)).abs()
        assert (difference <= whole.error_bound + split.error_bound).all()


def rows_of(one: Capture, rows: Tensor) -> Capture:
    return replace(one, anatomy=replace(one.anatomy, output_rows=rows))


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
