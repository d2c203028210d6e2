"""First orders from weights alone against the model's own modules, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from analyses.earlier_layers.test_layer import captured_layers
from analyses.earlier_layers.test_plain_continuation import PLAIN, QUERY, one_larger
from model.test_families import random_model

from rtdyn.analyses.earlier_layers.continuation import clean_window
from rtdyn.analyses.earlier_layers.first_order import first_order
from rtdyn.analyses.earlier_layers.plain_first_order import plain_first_order
from rtdyn.analyses.earlier_layers.plain_window import plain_clean_window
from rtdyn.analyses.earlier_layers.sums import exact_sums, first_order_sums, windows_of
from rtdyn.analyses.earlier_layers.trusted_blocks import first_orders_agree, trusted_blocks
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.families import anatomy
from rtdyn.model.plain_block import plain_blocks

TARGET = torch.tensor([3, 1, 2])


def window(parts: Anatomy) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Float64 means of every layer before the last, and a float32 stream of 12 positions."""
    generator = torch.Generator().manual_seed(0)
    neurons, width = parts.output_rows.shape
    means = {
        layer: torch.randn(neurons, dtype=torch.float64, generator=generator) for layer in range(len(parts.stack) - 1)
    }
    return means, torch.randn(12, width, generator=generator)


def in_float64(model: Any) -> Anatomy:
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("sdpa")
    return anatomy(exact)


@pytest.mark.parametrize("config", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("from_last", [False, True])
def test_weights_alone_give_the_first_order_of_the_models_modules(config: Any, from_last: bool) -> None:
    model = random_model(config)
    parts = anatomy(model)
    first = len(parts.stack) - 2 if from_last else 0
    blocks = plain_blocks(parts)
    means, stream = window(parts)
    means = {layer: mean for layer, mean in means.items() if layer >= first}
    truth_loss, truth = first_order(in_float64(model), first, means, stream.double(), QUERY, TARGET, 2**30)
    for memory in (0, 2**30):
        loss, ours = plain_first_order(parts, blocks, first, means, stream, QUERY, TARGET, memory)
        torch.testing.assert_close(loss.double(), truth_loss, rtol=0, atol=1e-5)
        assert list(ours) == list(truth)
        for layer, of_layer in truth.items():
            for name in ("delta", "slope"):
                exact = getattr(of_layer, name)
                difference = (getattr(ours[layer], name).double() - exact).abs()
                assert (difference.amax(1) < 1e-5 * exact.abs().amax(1)).all()
                assert exact.abs().amax(1).min() > 1e-3
    assert first_orders_agree(parts, blocks, first, means, stream, QUERY, TARGET, 2**30)


@pytest.mark.parametrize("config", PLAIN.values(), ids=PLAIN)
def test_weights_alone_give_the_window_as_it_is(config: Any) -> None:
    model = random_model(config)
    parts = anatomy(model)
    means, stream = window(parts)
    truth = clean_window(in_float64(model), 0, list(means), stream.double(), QUERY, TARGET)
    ours = plain_clean_window(parts, plain_blocks(parts), 0, list(means), stream, QUERY, TARGET)
    seen = int(QUERY.max()) + 1
    pairs = [(ours.hidden, truth.hidden), (ours.loss, truth.loss)]
    for layer, state in truth.layers.items():
        of_layer = ours.layers[layer]
        pairs += [(getattr(of_layer, name), getattr(state, name)[:seen]) for name in ("stream", "activations")]
    assert len(pairs) == 2 + 2 * len(means)
    for mine, exact in pairs:
        torch.testing.assert_close(mine.double(), exact, rtol=0, atol=5e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("config", ["parallel", "llama"])
def test_weights_that_are_not_the_models_are_not_trusted(config: str) -> None:
    parts = anatomy(random_model(PLAIN[config]))
    blocks = plain_blocks(parts)
    means, stream = window(parts)
    for place in (1, len(blocks) - 1):
        for part in ("attention_in", "attention_out", "mlp_in", "mlp_out"):
            for changed in one_larger(getattr(blocks[place], part)):
                others = list(blocks)
                others[place] = replace(blocks[place], **{part: changed})
                assert not first_orders_agree(parts, others, 0, means, stream, QUERY, TARGET, 2**30)


@pytest.mark.parametrize("part", ["attention_in", "mlp_in", "mlp_out"])
def test_a_text_is_not_trusted_to_weights_that_are_not_the_models(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = captured_layers(random_model(PLAIN["parallel"]))
    windows = windows_of(earlier.layers[0].positions)
    assert trusted_blocks(earlier, windows, 2**30)
    *others, last = plain_blocks(earlier.anatomy)
    changed, *_ = one_larger(getattr(last, part))
    with monkeypatch.context() as patched:
        patched.setattr(
            f"{trusted_blocks.__module__}.plain_blocks", lambda _: [*others, replace(last, **{part: changed})]
        )
        assert trusted_blocks(earlier, windows, 2**30) == ()


@pytest.mark.parametrize("config", ["parallel", "llama"])
def test_windows_that_run_at_once_sum_to_those_in_turn(config: str) -> None:
    earlier = captured_layers(random_model(PLAIN[config]))
    windows = windows_of(earlier.layers[0].positions)
    blocks = trusted_blocks(earlier, windows, 2**30)
    assert len(blocks) == len(earlier.anatomy.stack)
    pairs = {0: np.ones((len(windows), 40), dtype=bool)}
    found, before = [], torch.get_num_threads()
    try:
        for threads, memory, by in ((1, 2**30, blocks), (3, 2**30, blocks), (3, 0, blocks), (3, 2**30, ())):
            torch.set_num_threads(threads)
            first = first_order_sums(earlier, windows, memory, by)
            exact = exact_sums(earlier, windows, pairs, memory, 0, by)
            found.append((first[1].classes["rare"].abs_sum, exact[0]["rare"].abs_sum))
    finally:
        torch.set_num_threads(before)
    for k in range(2):
        assert np.array_equal(found[0][k], found[1][k])
        for other in found[2:]:
            np.testing.assert_allclose(other[k], found[0][k], rtol=0, atol=2e-5)
