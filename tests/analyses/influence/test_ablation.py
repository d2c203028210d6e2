"""Influence against float64 brute force, a hook on the real model, and what must hold for any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.brute_force import brute_force_deltas
from torch import Tensor

from rtdyn.analyses.influence import pairs
from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.influence.block_sizes import block_sizes
from rtdyn.analyses.influence.certified import PAIR_BYTES, DeltaBlock, delta_blocks
from rtdyn.analyses.statistics import clustered_se, jackknife_se
from rtdyn.capture.collect import NeuronMoments
from rtdyn.capture.forward_pass import Capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.intervals import t_interval
from rtdyn.model.anatomy import Anatomy, Readout
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import ClassPositions, MeasuredPositions

STEPS = (1, 512, 4000)
GIB = 2**30
REFERENCE_ERROR = 1e-12
"""What float64 brute force itself may err by, relative to 1 + |Δ|."""


def all_deltas(captured: Capture, tolerance: float, memory_bytes: int = GIB) -> DeltaBlock:
    members = [torch.from_numpy(captured.positions.members(c.name)) for c in captured.positions.classes]
    n, f = captured.activations.shape
    whole = DeltaBlock(slice(0, n), slice(0, f), *torch.full((3, n, f), torch.nan, dtype=torch.float64), refined=0)
    refined = 0
    for block in delta_blocks(captured, members, tolerance, memory_bytes):
        for name in ("delta", "half_width", "rounding"):
            getattr(whole, name)[block.rows, block.neurons] = getattr(block, name)
        refined += block.refined
    return replace(whole, refined=refined)


def within(block: DeltaBlock, expected: Tensor) -> bool:
    allowed = block.half_width + block.rounding + REFERENCE_ERROR * (1 + expected.abs())
    return bool(((block.delta - expected).abs() <= allowed).all())


def synthetic(seed: int, n: int = 12, d: int = 8, f: int = 10, v: int = 30, scale: float = 1.0) -> Capture:
    """A capture of random numbers, two windows, one class; `scale` multiplies the output rows."""
    g = torch.Generator().manual_seed(seed)
    activations = torch.randn(n, f, generator=g).abs()
    positions = MeasuredPositions(
        flat=np.arange(n),
        window=np.arange(n) // ((n + 1) // 2),
        query=np.arange(n),
        target=torch.randint(v, (n,), generator=g).numpy(),
        classes=(ClassPositions("rare", n, np.arange(n)),),
    )
    readout = Readout(
        centred=True,
        gain=1 + 0.3 * torch.randn(d, generator=g),
        shift=torch.randn(d, generator=g),
        epsilon=1e-5,
        unembedding=torch.randn(v, d, generator=g),
        bias=torch.randn(v, generator=g),
    )
    nothing = torch.nn.Identity()
    anatomy = Anatomy(nothing, nothing, nothing, scale * torch.randn(f, d, generator=g), True, None, readout, 0)
    moments = NeuronMoments(
        n,
        activations.double().mean(0),
        activations.double().var(0, unbiased=False),
        activations.amin(0),
        activations.amax(0),
        (activations > 0).double().mean(0),
    )
    return Capture(
        positions, torch.randn(n, d, generator=g), activations, moments, torch.zeros(n), np.arange(n), None, anatomy
    )


@pytest.mark.parametrize("step", STEPS)
def test_exact_deltas_match_float64_brute_force(step: int, captured: Callable[[int], Capture]) -> None:
    one = captured(step)
    rng = np.random.default_rng(step)
    positions = torch.from_numpy(rng.choice(len(one.residual), 48, replace=False))
    neurons = torch.from_numpy(rng.choice(512, 96, replace=False))
    expected = brute_force_deltas(one, positions, neurons)
    ours = all_deltas(one, tolerance=0.0).delta[positions][:, neurons]
    assert expected.abs().max() > 1e-6
    assert (ours - expected).abs().max() < 1e-6


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", STEPS)
def test_every_interval_holds_the_true_delta(
    step: int, precision: torch.dtype, captured: Callable[[int], Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "product_precision", lambda device: precision)
    one = captured(step)
    positions, neurons = torch.arange(0, len(one.residual), 3), torch.arange(0, 512, 5)
    expected = brute_force_deltas(one, positions, neurons)
    block = all_deltas(one, tolerance=1.0)
    assert (block.half_width > 0).double().mean() > 0.9, "at this tolerance nearly nothing may be refined"
    error = (block.delta[positions][:, neurons] - expected).abs()
    allowed = (block.half_width + block.rounding)[positions][:, neurons] + REFERENCE_ERROR
    assert (error <= allowed).all(), f"worst excess {(error - allowed).max():.2e}"


@pytest.mark.parametrize("step", STEPS)
def test_class_means_are_within_the_tolerance(step: int, captured: Callable[[int], Capture]) -> None:
    one = captured(step)
    deciles = torch.full((2560,), -1)
    exact = influence(one, deciles, 1, tolerance=0.0)
    quick = influence(one, deciles, 1, tolerance=1e-5)
    assert quick.refined_share < 0.5
    for name, c in quick.classes.items():
        truth = exact.classes[name]
        assert (c.error_bound <= 1e-5).all()
        for ours, theirs in ((c.mean, truth.mean), (c.mean_abs, truth.mean_abs)):
            assert ((ours - theirs).abs() <= c.error_bound + truth.error_bound).all()
            assert (ours - theirs).abs().max() <= 1e-5


def test_deltas_match_a_hook_on_the_real_model(
    tiny: SuiteSpec, evaluation: Evaluation, captured: Callable[[int], Capture]
) -> None:
    one = captured(4000)
    model = load_model(fetch_local(tiny, 4000), "cpu").double()
    ours = all_deltas(one, tolerance=0.0).delta
    windows = torch.from_numpy(evaluation.text.windows.astype(np.int64))
    rows = np.unique(one.positions.window)[:4]
    mine = np.isin(one.positions.window, rows)
    row = torch.from_numpy(np.searchsorted(rows, one.positions.window[mine]))
    query, target = (torch.from_numpy(a[mine]) for a in (one.positions.query, one.positions.target))

    def losses(neuron: int | None) -> Tensor:
        def replace_activation(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            changed = inputs[0].clone()
            if neuron is not None:
                changed[..., neuron] = one.moments.mean[neuron]
            return (changed,)

        handle = model.gpt_neox.layers[-1].mlp.dense_4h_to_h.register_forward_pre_hook(replace_activation)
        logits = model(windows[rows]).logits[row, query]
        handle.remove()
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")

    before = losses(None)
    strongest = ours.abs().mean(0).topk(3).indices.tolist()
    for neuron in [*strongest, 0, 100, 511]:
        difference = losses(neuron) - before - ours[torch.from_numpy(mine), neuron]
        assert difference.abs().max() < 2e-6


def test_untrained_model_with_bias_in_the_readout_matches_brute_force() -> None:
    one = synthetic(seed=3)
    assert (all_deltas(one, 0.0).delta - brute_force_deltas(one)).abs().max() < 2e-6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-4, 0.01, 0.3, 3.0]))
def test_intervals_hold_for_random_models_of_any_scale(seed: int, scale: float) -> None:
    one = synthetic(seed, scale=scale)
    expected = brute_force_deltas(one)
    for tolerance in (0.0, 1e-5, 1e9):
        block = all_deltas(one, tolerance)
        assert within(block, expected)


def with_readout(captured: Capture, **changes: Tensor | float | None) -> Capture:
    return replace(captured, anatomy=replace(captured.anatomy, readout=replace(captured.anatomy.readout, **changes)))


@pytest.mark.parametrize("seed", [7, 25])
def test_a_certain_prediction_whose_variance_cancels_is_not_miscertified(seed: int) -> None:
    one = synthetic(seed, n=24, v=200, scale=10)
    bias = torch.zeros(200)
    bias[0] = 30
    one = with_readout(one, bias=bias)
    expected = brute_force_deltas(one)
    for tolerance in (0.0, 1e-5):
        block = all_deltas(one, tolerance)
        assert within(block, expected)


def test_logit_shifts_beyond_the_range_of_exp_are_summed_not_lost() -> None:
    one = synthetic(seed=2)
    one = with_readout(one, gain=one.anatomy.readout.gain * 2000)
    expected = brute_force_deltas(one)
    block = all_deltas(one, 1e-5)
    assert expected.abs().max() > 710
    assert torch.isfinite(block.delta).all()
    assert within(block, expected)


@pytest.mark.parametrize("common", [0.0, 100.0, 1000.0])
def test_a_row_common_to_all_types_spoils_no_interval(common: float) -> None:
    for seed in range(12):
        one = synthetic(seed, n=24, d=64, v=400)
        row = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        one = with_readout(one, unembedding=one.anatomy.readout.unembedding + common * row / row.norm())
        expected = brute_force_deltas(one)
        for tolerance in (0.0, 1e-5, 1.0):
            block = all_deltas(one, tolerance)
            assert within(block, expected)


def test_huge_activations_are_refined_not_miscertified() -> None:
    one = synthetic(seed=1, scale=1.0)
    wild = one.activations.clone()
    wild[0, 0], wild[1, 1] = 3e3, -3e4
    one = replace(one, activations=wild)
    block = all_deltas(one, 1e-5)
    expected = brute_force_deltas(one)
    assert block.half_width[0, 0] == 0 and block.half_width[1, 1] == 0
    assert torch.isfinite(block.delta).all()
    assert within(block, expected)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), constant=st.floats(-20, 20))
def test_a_constant_added_to_every_logit_changes_nothing(seed: int, constant: float) -> None:
    one = synthetic(seed)
    readout = one.anatomy.readout
    assert readout.bias is not None
    moved = replace(one, anatomy=replace(one.anatomy, readout=replace(readout, bias=readout.bias + constant)))
    assert (all_deltas(one, 0.0).delta - all_deltas(moved, 0.0).delta).abs().max() < 1e-5


def test_silent_and_constant_neurons_have_no_influence_at_all() -> None:
    one = synthetic(seed=5)
    rows, activations = one.anatomy.output_rows.clone(), one.activations.clone()
    rows[2] = 0
    activations[:, 4] = 0.1  # whose float64 mean need not equal it
    moments = replace(one.moments, minimum=activations.amin(0), maximum=activations.amax(0),
                      mean=activations.double().mean(0) + 1e-9)  # fmt: skip
    one = replace(one, activations=activations, moments=moments, anatomy=replace(one.anatomy, output_rows=rows))
    for tolerance in (0.0, 1e-5):
        delta = all_deltas(one, tolerance).delta
        assert (delta[:, [2, 4]] == 0).all()
        assert (delta[:, [0, 1, 3]] != 0).any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_permuting_neurons_permutes_results(seed: int) -> None:
    one = synthetic(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(10))
    moments = NeuronMoments(
        one.moments.n, *(getattr(one.moments, k)[order] for k in ("mean", "variance", "minimum", "maximum", "positive"))
    )
    anatomy = replace(one.anatomy, output_rows=one.anatomy.output_rows[order])
    permuted = replace(one, activations=one.activations[:, order], moments=moments, anatomy=anatomy)
    ours, theirs = all_deltas(one, 0.0), all_deltas(permuted, 0.0)
    assert ((ours.delta[:, order] - theirs.delta).abs() <= 2 * theirs.rounding).all()


@pytest.mark.slow
def test_block_size_changes_nothing_but_round_off(captured: Callable[[int], Capture]) -> None:
    one = captured(4000)
    whole = all_deltas(one, 1e-5)
    split = all_deltas(one, 1e-5, memory_bytes=32 * 2560 * 37)
    sizes = block_sizes(one, 32 * 2560 * 37, PAIR_BYTES)
    assert sizes.positions < len(one.residual) and sizes.neurons < 512 and not sizes.held
    assert split.delta.shape == whole.delta.shape
    open_ = sum(block.half_width + block.rounding for block in (whole, split))
    assert ((split.delta - whole.delta).abs() <= open_).all()
    # other blocks of positions leave other pairs at second order, within the same tolerance
    assert (split.delta.mean(0) - whole.delta.mean(0)).abs().max() < 1e-5
    exactly = [all_deltas(one, 0.0, memory_bytes).delta for memory_bytes in (GIB, 32 * 2560 * 37)]
    assert (exactly[0] - exactly[1]).abs().max() < 1e-7


def test_class_sums_and_deciles_add_up(captured: Callable[[int], Capture]) -> None:
    one = captured(512)
    decile_of = torch.arange(2560) % 10
    result = influence(one, decile_of, 10)
    delta = all_deltas(one, 1e-5).delta
    for name, c in result.classes.items():
        own = delta[torch.from_numpy(one.positions.members(name))]
        torch.testing.assert_close(c.mean, own.mean(0))
        torch.testing.assert_close(c.mean_abs, own.abs().mean(0))
        torch.testing.assert_close(c.window_sum.sum(0) / c.n, c.mean)
        torch.testing.assert_close(c.window_abs_sum.sum(0) / c.n, c.mean_abs)
        assert int(c.window_n.sum()) == c.n == len(own)
        assert int(c.decile_n.sum()) == c.n
        torch.testing.assert_close(c.decile_sum.sum(0) / c.n, c.mean)


def test_the_jackknife_of_a_mean_is_the_clustered_standard_error(captured: Callable[[int], Capture]) -> None:
    given = replace(captured(4000), mean_parts=None)
    c = influence(given, torch.full((2560,), -1), 1).classes["common"]
    left = (c.window_abs_sum.sum(0) - c.window_abs_sum) / (c.n - c.window_n)[:, None]
    np.testing.assert_allclose(jackknife_se(left.numpy()), c.mean_abs_se.numpy(), rtol=0.1)


@given(seed=st.integers(0, 9999), n=st.integers(2, 30))
@settings(max_examples=25, deadline=None)
def test_the_jackknife_of_equal_clusters_is_the_usual_standard_error(seed: int, n: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n, 3))
    left = np.array([np.delete(values, k, 0).mean(0) for k in range(n)])
    np.testing.assert_allclose(jackknife_se(left), values.std(0, ddof=1) / n**0.5, rtol=1e-9)


def test_one_cluster_has_no_standard_error() -> None:
    assert np.isnan(jackknife_se(np.ones((1, 3)))).all()
    assert torch.isnan(clustered_se(torch.ones(1, 3), torch.ones(1))).all()


def test_standard_errors_are_those_of_clusters_merged_by_hand(captured: Callable[[int], Capture]) -> None:
    one = replace(captured(512), mean_parts=None)
    cluster = np.arange(one.positions.window.max() + 1) // 4 % 9
    alone = influence(one, torch.full((2560,), -1), 1)
    merged = influence(one, torch.full((2560,), -1), 1, cluster=cluster)
    for name, c in merged.classes.items():
        own = alone.classes[name]
        assert own.clusters == len(own.window_ids) and own.window_cluster.tolist() == list(range(own.clusters))
        assert torch.equal(c.mean_abs, own.mean_abs) and torch.equal(c.window_abs_sum, own.window_abs_sum)
        held = np.unique(cluster[own.window_ids.numpy()])
        assert c.clusters == len(held)
        assert held[c.window_cluster.numpy()].tolist() == cluster[own.window_ids.numpy()].tolist()
        for by_window, se in ((own.window_sum, c.mean_se), (own.window_abs_sum, c.mean_abs_se)):
            rows = [np.flatnonzero(cluster[own.window_ids.numpy()] == k) for k in held]
            sums = torch.stack([by_window[r].sum(0) for r in rows])
            counts = torch.stack([own.window_n[r].sum() for r in rows])
            torch.testing.assert_close(c.by_cluster(by_window), sums)
            torch.testing.assert_close(se, clustered_se(sums, counts))


def test_clustered_se_is_the_usual_one_for_clusters_of_one() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3)))
    expected = values.std(0, unbiased=True) / 40**0.5
    torch.testing.assert_close(clustered_se(values, torch.ones(40, dtype=torch.int64)), expected)


@pytest.mark.parametrize("clusters", [8, 60])
def test_documents_whose_windows_are_correlated_are_covered_where_windows_are_not(clusters: int) -> None:
    """Documents of one to five windows, each of which holds 2 to 8 positions."""
    rng, covered = np.random.default_rng(1), np.zeros(2)
    for _ in range(600):
        document = np.repeat(np.arange(clusters), rng.integers(1, 6, clusters))
        n = rng.integers(2, 9, len(document))
        subject = rng.normal(size=clusters)[document] + 0.5 * rng.normal(size=len(document))
        sums = n * subject + np.sqrt(n) * rng.normal(size=len(n))
        for k, labels in enumerate((document, np.arange(len(n)))):
            by = torch.from_numpy((labels[:, None] == np.unique(labels)).T.astype(float))
            total, counts = by @ torch.from_numpy(sums)[:, None], by @ torch.from_numpy(n).double()
            low, high = t_interval(
                float(total.sum() / counts.sum()), float(clustered_se(total, counts)[0]), len(counts)
            )
            assert low is not None and high is not None
            covered[k] += low <= 0 <= high
    # with 8 documents of unequal length the t interval is a little short
    assert (0.90 if clusters == 8 else 0.93) <= covered[0] / 600 <= 0.97
    assert covered[1] / 600 < 0.85


@pytest.mark.parametrize("scale", [2.0**15, 2.0**20, 2.0**24])
def test_a_neuron_that_writes_nearly_the_whole_stream_gives_a_number(scale: float) -> None:
    one = synthetic(seed=4, n=30)
    residual = one.residual.clone()
    residual[:] = 1e-3 * residual + scale * one.anatomy.output_rows[0]
    activations = one.activations.clone()
    activations[:, 0] = scale
    activations[0, 0] = 0.5 * scale
    moments = replace(one.moments, mean=one.moments.mean.clone(), maximum=activations.amax(0))
    moments.mean[0] = 0.0
    one = replace(one, residual=residual, activations=activations, moments=moments)
    block = all_deltas(one, 1e-5)
    assert torch.isfinite(block.delta).all()
    assert (block.delta[1:, 0].abs() > 1e-3).any()


def test_equal_types_that_hold_all_mass_stay_inside_bfloat16s_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(pairs, "product_precision", lambda device, precision=precision: precision)
        one = synthetic(seed=9, n=40, v=2048, scale=0.05)
        rows = one.anatomy.readout.unembedding.clone()
        rows[:255] = rows[0]
        bias = torch.full((2048,), -200.0)
        bias[:255] = 0
        one = with_readout(one, unembedding=rows, bias=bias)
        expected = brute_force_deltas(one)
        for tolerance in (0.0, 1e-5, 1.0):
            assert within(all_deltas(one, tolerance), expected)
