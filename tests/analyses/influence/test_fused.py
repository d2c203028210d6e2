"""The fused sums against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rtdyn.analyses.influence import fused
from rtdyn.analyses.influence.pairs import EPSILON, Z_ROUNDING


def pairs(seed: int, n: int, f: int, v: int, directions: int, size: float, k: int) -> tuple[Tensor, ...]:
    """Arguments of `exponential_excess` whose |z| is at most `size`."""
    g = torch.Generator().manual_seed(seed)
    p = torch.softmax(4 * torch.randn(n, v, generator=g), 1)
    m, q = torch.rand(directions, n, v, generator=g) * 2 - 1, torch.rand(f, v, generator=g) * 2 - 1
    a, t = (torch.rand(shape, generator=g).double() * size / (1 + directions) for shape in ((directions, k), (k,)))
    return p, m, q, a, t, torch.randint(n, (k,), generator=g), torch.randint(f, (k,), generator=g)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    v=st.sampled_from([1, 7, 1024, 1025, 5000]),
    directions=st.sampled_from([1, 2]),
    size=st.sampled_from([0.0, 1e-6, 1e-3, 0.3, 2.0, fused.LARGEST]),
)
def test_excess_is_right_to_float32_for_shifts_of_any_size(seed: int, v: int, directions: int, size: float) -> None:
    p, m, q, a, t, row, neuron = arguments = pairs(seed, n=70, f=9, v=v, directions=directions, size=size, k=300)
    z = (a[..., None] * m[:, row]).sum(0) + t[:, None] * q[neuron]
    expected = (p[row] * (torch.expm1(z) - z)).sum(1)
    moved = (p[row] * torch.expm1(z).abs()).sum(1)
    ours = fused.exponential_excess(*arguments)
    assert (ours > 0).any() or size == 0
    assert ((ours - expected).abs() <= EPSILON * (8 * expected + Z_ROUNDING * size * moved)).all()
    torch.testing.assert_close(fused.unfused(*arguments), expected)


def test_excess_of_one_type_is_the_function_itself() -> None:
    z = torch.cat([torch.logspace(-8, 1.3, 200), -torch.logspace(-8, 1.3, 200)]).double()
    one = torch.ones(1, 1)
    none = torch.zeros(len(z), dtype=torch.int64)
    ours = fused.exponential_excess(one, one[None], one, torch.zeros(1, len(z)), z, none, none)
    rounded = z.float().double()
    tiny = rounded.square() / 2 * (1 + rounded / 3 * (1 + rounded / 4))
    expected = torch.where(rounded.abs() < 1e-4, tiny, torch.expm1(rounded) - rounded)
    torch.testing.assert_close(ours, expected, rtol=8 * EPSILON, atol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_number_of_threads_changes_nothing(threads: int) -> None:
    arguments = pairs(5, n=200, f=20, v=3000, directions=1, size=1.0, k=2000)
    expected = fused.exponential_excess(*arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(fused.exponential_excess(*arguments), expected)
    finally:
        torch.set_num_threads(before)


def test_no_pairs_give_no_sums() -> None:
    arguments = pairs(1, n=3, f=2, v=10, directions=1, size=1.0, k=0)
    assert fused.exponential_excess(*arguments).shape == (0,)
