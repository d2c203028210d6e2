"""Losses from few types against all of them, in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers import drawn_types
from rtdyn.analyses.earlier_layers.continuation import CleanWindow, losses
from rtdyn.analyses.earlier_layers.drawn_types import TOLERANCE, DrawnTypes, draw_types, inclusion
from rtdyn.model.anatomy import Anatomy, Readout

VOCABULARY, WIDTH, POSITIONS, MOVES = 8000, 24, 6, 40


def planted(seed: int, bias: bool, cap: float | None = None) -> tuple[Anatomy, CleanWindow, Tensor, Tensor]:
    """A readout, states before it, their targets, and how they move: a hundredth of their size, and ever more."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    norm = torch.nn.LayerNorm(WIDTH, dtype=torch.float64).requires_grad_(False)
    norm.weight.copy_(normal(WIDTH))
    biases = normal(VOCABULARY) if bias else None
    readout = Readout(True, norm.weight, norm.bias, norm.eps, normal(VOCABULARY, WIDTH), biases, cap)
    parts = cast(Anatomy, SimpleNamespace(final_norm=norm, readout=readout))
    hidden, target = normal(POSITIONS, WIDTH), torch.randint(VOCABULARY, (POSITIONS,), generator=g)
    size = torch.logspace(-4, 0.5, MOVES, dtype=torch.float64)[:, None, None]
    loss = losses(parts, hidden[None], target)[0]
    return parts, CleanWindow({}, hidden, loss), target, hidden + size * normal(MOVES, POSITIONS, WIDTH)


@pytest.mark.parametrize("bias", [False, True])
def test_each_change_is_that_of_all_types_to_the_tolerance(bias: bool) -> None:
    parts, clean, target, moved = planted(0, bias)
    truth = losses(parts, moved, target) - clean.loss
    types = draw_types(parts, clean, target, np.random.default_rng(0))
    assert 0 < sum(map(len, types.types)) < VOCABULARY * POSITIONS / 8
    error = (types.changes(moved, 2**30) - truth).abs()
    assert error.max() < 6 * TOLERANCE and error[-1].max() < 1e-12 < truth[-1].abs().min()
    assert error[10].max() > 0, "some come from few types"


def test_few_types_are_unbiased_and_know_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, clean, target, moved = planted(1, False)
    monkeypatch.setattr(drawn_types, "TOLERANCE", torch.inf)
    some = moved[20:30]
    truth = losses(parts, some, target) - clean.loss
    errors = torch.stack(
        [draw_types(parts, clean, target, np.random.default_rng(i)).changes(some, 2**30) - truth for i in range(100)]
    )
    z = errors.mean(0) / (errors.std(0) / 10)
    assert z.square().mean() < 1.5 and errors.std(0).min() > 0
    monkeypatch.setattr(drawn_types, "TOLERANCE", 0.0)
    whole = draw_types(parts, clean, target, np.random.default_rng(0)).changes(some, 2**30)
    torch.testing.assert_close(whole, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("least", "cap"), [(VOCABULARY // 3, None), (drawn_types.LEAST, 5.0)])
def test_where_most_types_would_be_drawn_or_logits_are_capped_all_are_summed(
    monkeypatch: pytest.MonkeyPatch, least: int, cap: float | None
) -> None:
    parts, clean, target, moved = planted(2, True, cap)
    monkeypatch.setattr(drawn_types, "LEAST", least)
    types: DrawnTypes = draw_types(parts, clean, target, cast(Any, None))
    assert not types.types
    one, all_ = (types.changes(moved, memory) for memory in (0, 2**30))
    torch.testing.assert_close(all_, losses(parts, moved, target) - clean.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(one, all_, rtol=0, atol=1e-12)


def test_probabilities_sum_to_the_number_that_is_asked_for_and_leave_no_type_out() -> None:
    p = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)).mul_(4).softmax(-1)
    chance = inclusion(p, 512)
    assert chance.min() > 0 and chance.max() == 1
    torch.testing.assert_close(chance.sum(1), torch.full((3,), 512.0), rtol=0.02, atol=0)
