"""What must hold between the first order and the exact effect of a neuron."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analyses.earlier_layers.test_layer import CONFIGS
from model.test_families import random_model

from rtdyn.analyses.earlier_layers.continuation import clean_window
from rtdyn.analyses.earlier_layers.drawn_types import draw_types
from rtdyn.analyses.earlier_layers.exact import exact_deltas
from rtdyn.analyses.earlier_layers.first_order import first_order
from rtdyn.model.families import anatomy

LAYER = 1
SOFTMAX = 1e-6
"""Nats that attention's softmax may err by: transformers takes it in float32 whatever the model is in."""


@pytest.mark.parametrize("family", ["parallel", "sequential", "gpt2"])
def test_where_the_continuation_is_linear_the_first_order_is_the_effect(family: str) -> None:
    """Over what a small neuron writes it is; of a smaller one, what is left shrinks as the square."""
    model = random_model(CONFIGS[family]).double()
    model.set_attn_implementation("sdpa")  # the eager softmax is float32, whose round-off is larger than what is left
    parts = anatomy(model)
    generator = torch.Generator().manual_seed(0)
    stream = torch.randn(12, parts.readout.unembedding.shape[1], dtype=torch.float64, generator=generator)
    query, target = torch.tensor([4, 7, 10]), torch.tensor([1, 2, 3])
    rows = parts.mlp_outputs[LAYER].rows
    largest, left = [], []
    for factor in (1e-2, 1e-1):
        rows.mul_(factor)
        clean = clean_window(parts, LAYER, [LAYER], stream, query, target)
        state = clean.layers[LAYER]
        mean, every = state.activations.mean(0), torch.arange(len(rows))
        loss, found = first_order(parts, LAYER, {LAYER: mean}, stream, query, target, 2**30)
        types = draw_types(parts, clean, target, np.random.default_rng(0), 2**30)
        delta, again = exact_deltas(parts, LAYER, state, types, mean, every, query, 2**30)
        delta = delta.T
        assert again.abs().max() < SOFTMAX
        assert model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(loss, clean.loss, rtol=0, atol=SOFTMAX)
        largest.append(float(delta.abs().max()))
        left.append(float((delta - found[LAYER].delta).abs().max()))
    assert left[0] < 5e-2 * largest[0] and left[1] < 5e-3 * largest[1]
    assert largest[1] == pytest.approx(1e-1 * largest[0], rel=0.05)
    assert left[1] < 2e-2 * left[0] + SOFTMAX


def test_memory_decides_how_many_go_together_and_nothing_else() -> None:
    model = random_model(CONFIGS["olmo2"]).double()
    parts = anatomy(model)
    stream = torch.randn(12, parts.readout.unembedding.shape[1], dtype=torch.float64)
    query, target = torch.tensor([4, 7, 10]), torch.tensor([1, 2, 3])
    clean = clean_window(parts, 0, [0, LAYER], stream, query, target)
    means = {layer: state.activations.mean(0) for layer, state in clean.layers.items()}
    neurons = torch.arange(5)
    types = draw_types(parts, clean, target, np.random.default_rng(0), 2**30)
    for layer, state in clean.layers.items():
        one, all_ = (
            exact_deltas(parts, layer, state, types, means[layer], neurons, query, memory)[0] for memory in (0, 2**30)
        )
        torch.testing.assert_close(one, all_, rtol=0, atol=SOFTMAX)
    one, all_ = (first_order(parts, 0, means, stream, query, target, memory)[1] for memory in (0, 2**30))
    for layer in means:
        torch.testing.assert_close(one[layer].delta, all_[layer].delta, rtol=0, atol=SOFTMAX)
        torch.testing.assert_close(one[layer].slope, all_[layer].slope, rtol=0, atol=SOFTMAX)
