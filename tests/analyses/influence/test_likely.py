"""Sums over likely types, and the intervals that they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from analyses.influence.test_ablation import REFERENCE_ERROR, all_deltas, synthetic, within
from analyses.influence.test_fused import pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from support.brute_force import brute_force_deltas

from rtdyn.analyses.influence import certified, fused, likely
from rtdyn.analyses.influence.block_sizes import block_sizes
from rtdyn.analyses.influence.certified import PAIR_BYTES
from rtdyn.analyses.influence.pairs import EPSILON, Z_ROUNDING
from rtdyn.analyses.influence.position_block import position_block
from rtdyn.analyses.influence.unembedding import unembedding
from rtdyn.capture.forward_pass import Capture


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    v=st.sampled_from([1, 7, 600, 5000]),
    directions=st.sampled_from([1, 2]),
    size=st.sampled_from([0.0, 1e-3, 0.3, fused.LARGEST]),
)
def test_sums_are_those_of_types_whose_probability_is_large(seed: int, v: int, directions: int, size: float) -> None:
    p, m, q, a, t, row, neuron = pairs(seed, n=20, f=9, v=v, directions=directions, size=size, k=200)
    z = (a[..., None] * m[:, row]).sum(0) + t[:, None] * q[neuron]
    least = 0.5
    mine = p[row] * (p[row] >= least / v)
    expected = torch.stack([(mine * (torch.expm1(z) - z)).sum(1), (mine * z.square()).sum(1)])
    moved = Z_ROUNDING * size * torch.stack([(mine * torch.expm1(z).abs()).sum(1), (mine * 2 * z.abs()).sum(1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likely, "LIKELY", (least,))
        patch.setattr(likely, "MOST", 1.0)
        (types,) = likely.likely_types(p, m)
    ours = likely.sums_of_likely(types, q, a, t, row, neuron)
    assert (ours[0] > 0).any() or size == 0
    assert ((ours - expected).abs() <= EPSILON * (8 * expected + moved)).all()
    torch.testing.assert_close(likely.unfused(types, q, a, t, row, neuron), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_number_of_threads_changes_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p, m, *others = pairs(5, n=50, f=20, v=3000, directions=1, size=1.0, k=500)
    monkeypatch.setattr(likely, "MOST", 1.0)
    of_likely = likely.likely_types(p, m)[0]
    expected = likely.sums_of_likely(of_likely, *others)
    monkeypatch.setattr(likely, "PAIRS", 7)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(likely.sums_of_likely(of_likely, *others), expected)
    finally:
        torch.set_num_threads(before)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.01, 0.3, 2.0, 30.0]),
    least=st.sampled_from([0.0, 0.1, 1.0, 15.0, 60.0]),
)
def test_every_interval_by_likely_types_holds_the_true_delta(seed: int, scale: float, least: float) -> None:
    one = synthetic(seed, scale=scale)
    expected = brute_force_deltas(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certified, "UNSUMMED_WIDTH", 0.0)
        patch.setattr(certified, "_widest", lambda *of: torch.zeros(0, 2, dtype=torch.int64))
        patch.setattr(likely, "LIKELY", (least,))
        patch.setattr(likely, "MOST", 1.0)
        narrowed = all_deltas(one, 1e-9)
    assert narrowed.refined == 0
    assert within(narrowed, expected)
    if least == 0 and scale < 0.1:  # all types are summed: nothing is left open but the round-off of the second moment
        assert narrowed.half_width.max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("step", [1, 4000])
def test_likely_types_narrow_most_intervals_of_a_checkpoint(
    step: int, captured: Callable[[int], Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = captured(step)
    positions, neurons = torch.arange(0, len(one.residual), 3), torch.arange(0, 512, 5)
    expected = brute_force_deltas(one, positions, neurons)
    plain = all_deltas(one, tolerance=1.0)
    monkeypatch.setattr(certified, "UNSUMMED_WIDTH", 0.0)
    monkeypatch.setattr(certified, "_widest", lambda *of: torch.zeros(0, 2, dtype=torch.int64))
    block = all_deltas(one, tolerance=1e-12)
    allowed = (block.half_width + block.rounding)[positions][:, neurons] + REFERENCE_ERROR
    assert ((block.delta[positions][:, neurons] - expected).abs() <= allowed).all()
    assert (block.half_width <= plain.half_width + 1e-9).double().mean() > 0.99
    if step == 4000:
        assert (block.half_width < plain.half_width / 4).double().mean() > 0.5


def test_types_that_are_nearly_all_likely_are_not_summed_apart() -> None:
    p = torch.full((4, 64), 1 / 64)
    (none,) = likely.likely_types(p, p[None])
    assert len(none.types) == 0 and none.starts.tolist() == [0] * 5
    p[:, 0], p[:, 1:] = 0.9, 2.0**-11
    for few in likely.likely_types(p, p[None]):
        assert few.types.tolist() == [0] * 4 and few.starts.tolist() == [0, 1, 2, 3, 4]
        assert few.p.tolist() == few.m[0].tolist() == p[:, 0].tolist()


def test_a_tail_that_holds_the_change_is_bounded_and_not_lost() -> None:
    """Half of the probability lies on types under the bar, and the neuron moves them alone."""
    one = synthetic(3, n=6, v=20_000)
    rows = torch.zeros(20_000, 8)
    rows[1:, 0] = torch.linspace(-1, 1, 19_999)
    readout = replace(one.anatomy.readout, unembedding=rows, bias=torch.tensor([9.9] + [0.0] * 19_999))
    one = replace(one, anatomy=replace(one.anatomy, readout=readout))
    block = all_deltas(one, 1e-6)
    assert within(block, brute_force_deltas(one))


def test_sums_elsewhere_take_few_types_at_a_time_however_many_are_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    p, m, *others = pairs(7, n=30, f=9, v=600, directions=2, size=1.0, k=200)
    p[:28] = 0  # nothing is likely but at two positions
    monkeypatch.setattr(likely, "MOST", 1.0)
    types = likely.likely_types(p, m)[1]
    expected = likely.unfused(types, *others)
    monkeypatch.setitem(likely.CHUNK_TYPES, "cpu", 700)
    lengths = types.starts.diff()[others[-2]]
    taken = likely._chunks(types, others[-2])
    assert sum(int(lengths[some].sum()) for some in taken) == int(lengths.sum()) > 0
    assert max(int(lengths[some].sum()) for some in taken) <= 700 + int(lengths.max())
    torch.testing.assert_close(likely.unfused(types, *others), expected, rtol=1e-12, atol=0)
    assert likely.unfused(types, others[0], *(v[..., :0] for v in others[1:])).shape == (2, 0)


def wide_open(n: int, v: int) -> Capture:
    """As many types as may be are likely by every bar, as their bias alone makes them so."""
    one = synthetic(11, n=n, f=40, v=v)
    bias = torch.zeros(v)
    bias[: int(likely.MOST * v)] = 20.0
    readout = replace(one.anatomy.readout, bias=bias, unembedding=0.01 * one.anatomy.readout.unembedding)
    return replace(one, anatomy=replace(one.anatomy, readout=readout))


def test_a_block_of_positions_with_its_likely_types_takes_half_of_the_memory() -> None:
    one, memory = wide_open(n=64, v=4000), 2**20
    sizes = block_sizes(one, memory, PAIR_BYTES)
    assert 1 < sizes.positions < 64
    at = position_block(one, unembedding(one, sizes), slice(0, sizes.positions), sizes)
    arrays = [at.p, at.m, *(v for of in at.likely for v in (of.types, of.starts, of.p, of.m))]
    taken = sum(v.nbytes for v in arrays)
    assert [len(of.types) for of in at.likely] == [sizes.positions * 4000 // 8] * 2, "all that may be listed is"
    assert 0.4 * memory < taken <= memory / 2


def test_few_pairs_at_a_time_are_narrowed_however_many_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    one = wide_open(n=30, v=600)
    monkeypatch.setattr(certified, "UNSUMMED_WIDTH", 0.0)
    monkeypatch.setattr(certified, "LEAST_TOGETHER", 1)
    taken, sums = [], certified.sums_of_likely

    def counted(*arguments: Any) -> torch.Tensor:
        taken.append(len(arguments[-1]))
        return sums(*arguments)

    monkeypatch.setattr(certified, "sums_of_likely", counted)
    narrowed = all_deltas(one, 1e-12)
    pairs_of_block = 30 * 40
    assert max(taken) <= pairs_of_block // certified.NARROWED and sum(taken) > pairs_of_block
    monkeypatch.setattr(certified, "NARROWED", 1)
    torch.testing.assert_close(all_deltas(one, 1e-12).delta, narrowed.delta, rtol=0, atol=1e-12)
