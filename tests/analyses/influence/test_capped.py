"""Influence through a cap on the logits against float64 brute force, and what must hold whatever the cap."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from analyses.influence.test_ablation import all_deltas, synthetic, with_readout, within
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frozen import family, logits_of
from torch import Tensor

from rtdyn.analyses.influence import fused, pairs
from rtdyn.analyses.influence.bend import CURVATURE, THIRD
from rtdyn.analyses.influence.capped import BENT_ROUNDING, REACH, SHIFT_ROUNDING
from rtdyn.analyses.influence.pairs import EPSILON, SUM_ROUNDING
from rtdyn.capture.forward_pass import Capture

KINDS = ["layer norm", "RMS norm", "post-norm"]


def brute_force(captured: Capture) -> Tensor:
    """Δ (N, F), float64, by running norm, unembedding and cap."""
    before, after = logits_of(captured, list(range(captured.activations.shape[1])))
    target = torch.from_numpy(captured.positions.target)[:, None]
    return torch.stack([(before.log_softmax(1) - x.log_softmax(1)).gather(1, target)[:, 0] for x in after], 1)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    cap=st.sampled_from([0.5, 2.0, 5.0, 30.0, 1e6]),
    scale=st.sampled_from([0.003, 0.05, 0.5, 5.0, 50.0]),
    sharpness=st.sampled_from([0.1, 1.0, 10.0]),
    constant=st.sampled_from([0.0, -0.3, 3.0]),
    precision=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_interval_holds_the_true_delta(
    seed: int, kind: str, cap: float, scale: float, sharpness: float, constant: float, precision: torch.dtype
) -> None:
    one = family(seed, kind, scale)
    readout = one.anatomy.readout
    # a row common to all types moves every logit, and through the cap the loss
    one = with_readout(one, gain=sharpness * readout.gain, unembedding=readout.unembedding + constant, cap=cap)
    expected = brute_force(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtdyn.analyses.influence.capped.product_precision", lambda device: precision)
        patch.setattr(pairs, "product_precision", lambda device: precision)
        for tolerance in (0.0, 1e-5, 1e9):
            block = all_deltas(one, tolerance)
            assert within(block, expected)
            assert tolerance or ((block.half_width == 0).all() and (block.rounding < 1e-4 * sharpness).all())


@pytest.mark.parametrize("cap", [5.0, 30.0])
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_intervals_of_small_shifts_are_narrow(seed: int, kind: str, cap: float) -> None:
    plain = family(seed, kind, 1e-3)
    block = all_deltas(with_readout(plain, cap=cap), 1e9)
    assert block.refined == 0 and float(block.half_width.median()) < 1e-3 * float(block.delta.abs().median())
    without = all_deltas(plain, 1e9).half_width.median()
    assert float(block.half_width.median()) < 60 / cap * float(without)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 0.03, 0.5]), kind=st.sampled_from(KINDS))
def test_a_cap_beyond_all_logits_is_no_cap(seed: int, scale: float, kind: str) -> None:
    plain = family(seed, kind, scale)
    capped = with_readout(plain, cap=1e7)
    for tolerance in (0.0, 1e-5, 1e9):
        here, there = all_deltas(plain, tolerance), all_deltas(capped, tolerance)
        allowed = here.half_width + here.rounding + there.half_width + there.rounding + 1e-9
        assert ((here.delta - there.delta).abs() <= allowed).all()


def test_the_cap_bends_what_is_compared() -> None:
    plain = family(1, "post-norm")
    differ = brute_force(with_readout(plain, cap=5.0)) - brute_force(plain)
    assert differ.abs().max() > 0.3


@pytest.mark.parametrize("memory_bytes", [2**13, 2**17])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_any_size_give_the_same(kind: str, memory_bytes: int) -> None:
    one = with_readout(family(5, kind), cap=5.0)
    whole, parts = all_deltas(one, 0.0), all_deltas(one, 0.0, memory_bytes)
    assert ((whole.delta - parts.delta).abs() <= whole.rounding + parts.rounding).all()
    assert within(all_deltas(one, 1e-5, memory_bytes), brute_force(one))


def test_pairs_beyond_the_reach_of_float32_sums_are_summed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    one = with_readout(synthetic(2, v=30, scale=30.0), cap=2.0)
    given_to_float32: list[int] = []
    summed = fused.capped_excess

    def counted(*arguments: Tensor) -> Tensor:
        given_to_float32.append(len(arguments[-1]))
        return summed(*arguments)

    monkeypatch.setattr(fused, "capped_excess", counted)
    assert within(all_deltas(one, 0.0), brute_force(one))
    assert sum(given_to_float32) < one.activations.numel() / 2


def test_neurons_that_never_vary_change_nothing() -> None:
    one = with_readout(synthetic(3), cap=3.0)
    activations = one.activations.clone()
    activations[:, 4] = 0.25
    moments = replace(
        one.moments, mean=activations.double().mean(0), minimum=activations.amin(0), maximum=activations.amax(0)
    )
    for tolerance in (0.0, 1.0):
        block = all_deltas(replace(one, activations=activations, moments=moments), tolerance)
        assert (block.delta[:, 4] == 0).all() and (block.half_width[:, 4] + block.rounding[:, 4] == 0).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    v=st.sampled_from([1, 7, 512, 513, 1500]),
    directions=st.sampled_from([1, 2]),
    cap=st.sampled_from([0.5, 5.0, 30.0]),
    reach=st.sampled_from([1e-4, 0.02, 0.3, 1.0]),
    fused_loop=st.booleans(),
)
def test_sums_through_the_cap_are_right_to_their_round_off(
    seed: int, v: int, directions: int, cap: float, reach: float, fused_loop: bool
) -> None:
    g = torch.Generator().manual_seed(seed)
    n, f, k = 40, 6, 90
    largest = reach * min(REACH * cap, fused.LARGEST)
    logits = cap * torch.randn(n, v, generator=g).double()
    p = torch.softmax(cap * torch.tanh(logits / cap), 1)
    tangent, slope = torch.tanh(logits / cap), torch.cosh(logits / cap) ** -2
    m, q = torch.rand(directions, n, v, generator=g) * 2 - 1, torch.rand(f, v, generator=g) * 2 - 1
    a, t, level = (
        (torch.rand(s, generator=g).double() * 2 - 1) * largest / (2 + directions)
        for s in ((directions, k), (k,), (k,))
    )
    row, neuron = torch.randint(n, (k,), generator=g), torch.randint(f, (k,), generator=g)
    z = level[:, None] + t[:, None] * q[neuron] + (a[..., None] * m[:, row]).sum(0)
    h = cap * (torch.tanh((logits[row] + z) / cap) - tangent[row])
    excess = (p[row] * (torch.expm1(h) - h)).sum(1)
    bent = (p[row] * (h - slope[row] * z)).sum(1)
    with pytest.MonkeyPatch.context() as patch:
        if not fused_loop:
            patch.setattr(fused, "_capped_fused", fused.capped_unfused)
        ours = fused.capped_excess(p.float(), m, q, (tangent.float(), slope.float(), cap), a, t, level, row, neuron)
    square = (p[row] * z.square()).sum(1)
    shift = SHIFT_ROUNDING * largest * ((1 + CURVATURE / cap) * square.sqrt() + excess)
    allowed = EPSILON * (shift + SUM_ROUNDING * excess + BENT_ROUNDING / cap * square) + 1e-14
    assert ((ours[0] + ours[1] - excess - bent).abs() <= allowed).all()


def test_derivatives_of_the_cap_are_bounded_as_the_proof_has_it() -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    for cap in (0.5, 5.0, 30.0):
        tangent, slope = torch.tanh(x), torch.cosh(x) ** -2
        second, third = -2 * tangent * slope / cap, -2 * slope * (slope - 2 * tangent**2) / cap**2
        assert CURVATURE / cap * (1 - 1e-6) < second.abs().max() <= CURVATURE / cap * (1 + 1e-12)
        assert THIRD / cap**2 * (1 - 1e-6) < third.abs().max() <= THIRD / cap**2
