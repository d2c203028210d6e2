"""Losses from few types against all of them, in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from rtdyn.analyses.earlier_layers import drawn_types
from rtdyn.analyses.earlier_layers.continuation import CleanWindow, logits, losses
from rtdyn.analyses.earlier_layers.drawn_types import LEFT_OUT, TOLERANCE, DrawnTypes, draw_types, inclusion
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
    types = draw_types(parts, clean, target, np.random.default_rng(0), 2**30)
    assert 0 < sum(len(draw.types) for draw in types.draws) < VOCABULARY * POSITIONS / 8
    error = (types.changes(moved, 2**30) - truth).abs()
    assert error.max() < 6 * TOLERANCE and error[-1].max() < 1e-12 < truth[-1].abs().min()
    assert error[10].max() > 0, "some come from few types"


def test_few_types_are_unbiased_and_know_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, clean, target, moved = planted(1, False)
    monkeypatch.setattr(drawn_types, "TOLERANCE", torch.inf)
    monkeypatch.setattr(drawn_types, "LEFT_OUT", torch.inf)
    some = moved[20:30]
    truth = losses(parts, some, target) - clean.loss
    errors = torch.stack(
        [
            draw_types(parts, clean, target, np.random.default_rng(i), 2**30).changes(some, 2**30) - truth
            for i in range(100)
        ]
    )
    z = errors.mean(0) / (errors.std(0) / 10)
    assert z.square().mean() < 1.5 and errors.std(0).min() > 0
    monkeypatch.setattr(drawn_types, "TOLERANCE", 0.0)
    whole = draw_types(parts, clean, target, np.random.default_rng(0), 2**30).changes(some, 2**30)
    torch.testing.assert_close(whole, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("least", "cap"), [(VOCABULARY // 3, None), (drawn_types.LEAST, 5.0)])
def test_where_most_types_would_be_drawn_or_logits_are_capped_all_are_summed(
    monkeypatch: pytest.MonkeyPatch, least: int, cap: float | None
) -> None:
    parts, clean, target, moved = planted(2, True, cap)
    monkeypatch.setattr(drawn_types, "LEAST", least)
    types: DrawnTypes = draw_types(parts, clean, target, cast(Any, None), 2**30)
    assert not types.draws
    one, all_ = (types.changes(moved, memory) for memory in (0, 2**30))
    torch.testing.assert_close(all_, losses(parts, moved, target) - clean.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(one, all_, rtol=0, atol=1e-12)


def test_probabilities_sum_to_the_number_that_is_asked_for_and_leave_no_type_out() -> None:
    p = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)).mul_(4).softmax(-1)
    chance = inclusion(p, 512)
    assert chance.min() > 0 and chance.max() == 1
    torch.testing.assert_close(chance.sum(1), torch.full((3,), 512.0), rtol=0.02, atol=0)


def test_what_memory_allows_at_a_time_changes_neither_draw_nor_change() -> None:
    parts, clean, target, moved = planted(3, True)
    many, one = (draw_types(parts, clean, target, np.random.default_rng(0), m) for m in (2**30, 0))
    for a, b in zip(many.draws, one.draws, strict=True):
        assert torch.equal(a.types, b.types)
    torch.testing.assert_close(one.changes(moved, 0), many.changes(moved, 2**30), rtol=0, atol=1e-12)


def test_the_rows_of_the_types_drawn_are_no_more_at_a_time_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, clean, target, moved = planted(3, True)
    types = draw_types(parts, clean, target, np.random.default_rng(0), 2**30)
    seen: list[int] = []

    def product(rows: Tensor, weight: Tensor) -> Tensor:
        seen.append(weight.numel())
        return rows @ weight.T

    monkeypatch.setattr(drawn_types, "linear", product)
    types.changes(moved, 2**15)
    assert seen and max(seen) * 8 <= 2**15


def test_a_lone_type_of_small_probability_that_moves_far_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else moves, so that a draw without it shows no error at all."""
    g = torch.Generator().manual_seed(4)
    rows, biases = torch.randn(VOCABULARY, WIDTH, generator=g, dtype=torch.float64), torch.zeros(VOCABULARY).double()
    rows[:, 0], rows[0] = 0, 0
    rows[0, 0] = 4
    hidden = torch.randn(POSITIONS, WIDTH, generator=g, dtype=torch.float64) / 5
    hidden[:, 0] = 0
    biases[0] = (hidden @ rows[1:].T).logsumexp(1).mean() + np.log(5e-4)
    readout = Readout(False, torch.ones(WIDTH), torch.zeros(WIDTH), 0.0, rows, biases)
    parts = cast(Anatomy, SimpleNamespace(final_norm=torch.nn.Identity(), readout=readout))
    target = torch.randint(1, VOCABULARY, (POSITIONS,), generator=g)
    clean = CleanWindow({}, hidden, losses(parts, hidden[None], target)[0])
    moved = hidden.repeat(3, 1, 1)
    moved[:, :, 0] += torch.tensor([[-0.3], [0.05], [0.3]]).double()
    truth = losses(parts, moved, target) - clean.loss

    def errors() -> Tensor:
        draws = [draw_types(parts, clean, target, np.random.default_rng(i), 2**30) for i in range(10)]
        return torch.stack([types.changes(moved, 2**30) - truth for types in draws])

    assert errors().abs().max() < LEFT_OUT
    monkeypatch.setattr(drawn_types, "CERTAIN", 0)
    assert errors().abs().max() < LEFT_OUT
    monkeypatch.setattr(drawn_types, "LEFT_OUT", torch.inf)
    assert errors().mean() < -LEFT_OUT, "without it most draws lack the type, and none has too much of it"


def test_types_that_are_drawn_for_certain_let_states_move_farther(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, clean, target, _ = planted(5, False)
    unembedding, expected = parts.readout.unembedding, drawn_types.drawn_types(VOCABULARY)
    p = logits(parts, clean.hidden).softmax(-1)
    reaches = {}
    for share in (drawn_types.CERTAIN, 0):
        monkeypatch.setattr(drawn_types, "CERTAIN", share)
        chance = inclusion(p, (1 - share) * expected)
        draws = draw_types(parts, clean, target, np.random.default_rng(0), 2**30).draws
        assert sum(len(draw.types) for draw in draws) == pytest.approx(expected * POSITIONS, rel=0.05)
        for n, draw in enumerate(draws):
            lacking = chance[n].clone()
            lacking[draw.types[draw.probability == 1]] = 1
            assert (lacking == 1).sum() >= int(share * expected)
            z = (unembedding - draw.mean_row).norm(dim=1) * draw.reach
            left_out = (p[n] * (1 - lacking) * (z.expm1() - z)).max()
            assert 0.9 * LEFT_OUT < left_out < 1.001 * LEFT_OUT
        reaches[share] = torch.stack([draw.reach for draw in draws])
    certain, none = reaches.values()
    assert (certain > 1.2 * none).all()
