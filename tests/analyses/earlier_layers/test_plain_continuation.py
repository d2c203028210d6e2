"""Windows from weights alone against the model's own modules, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from analyses.earlier_layers.test_layer import CONFIGS, NEOX
from model.test_families import GATED, SHAPE, random_model

from rtdyn.analyses.earlier_layers.continuation import continued
from rtdyn.analyses.earlier_layers.plain_continuation import Moves, agrees, plain_continued
from rtdyn.model.anatomy import Anatomy
from rtdyn.model.families import anatomy
from rtdyn.model.plain_block import Linear, is_plain, plain_blocks

QUERY = torch.tensor([4, 7, 10])
ROTATED = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.67}}
PLAIN: dict[str, Any] = {
    "parallel": transformers.GPTNeoXConfig(num_hidden_layers=5, **ROTATED, **NEOX, **SHAPE),
    "sequential": transformers.GPTNeoXConfig(num_hidden_layers=5, use_parallel_residual=False, **NEOX, **SHAPE),
    "without biases": transformers.GPTNeoXConfig(num_hidden_layers=3, attention_bias=False, **NEOX, **SHAPE),
    "llama": transformers.LlamaConfig(num_key_value_heads=2, **{**GATED, "num_hidden_layers": 4}),
    "llama, with biases": transformers.LlamaConfig(
        num_key_value_heads=1, attention_bias=True, mlp_bias=True, head_dim=8, **{**GATED, "num_hidden_layers": 3}
    ),
    "mistral": transformers.MistralConfig(num_key_value_heads=4, sliding_window=None, **GATED),
    "qwen2": transformers.Qwen2Config(num_key_value_heads=2, **{**GATED, "num_hidden_layers": 4}),
    "phi": transformers.PhiConfig(
        num_key_value_heads=2, partial_rotary_factor=0.67, **{**GATED, "num_hidden_layers": 4}
    ),
}
FAMILIES = {config.model_type for config in PLAIN.values()}


def moves(parts: Anatomy, layer: int, neurons: int = 9) -> Moves:
    """Float32, of random changes; those of the first neuron are 0."""
    generator = torch.Generator().manual_seed(layer)
    rows = parts.mlp_outputs[layer].rows[:neurons].float()
    change = torch.randn(neurons, 12, generator=generator)
    change[0] = 0
    return Moves(torch.randn(12, rows.shape[1], generator=generator), change, rows)


def in_float64(model: Any, layer: int, some: Moves) -> torch.Tensor:
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("sdpa")
    with torch.no_grad():
        return continued(anatomy(exact), layer, some.streams().double(), QUERY)


@pytest.mark.parametrize("config", PLAIN.values(), ids=PLAIN)
def test_weights_alone_give_what_the_models_modules_give(config: Any) -> None:
    model = random_model(config)
    parts = anatomy(model)
    blocks = plain_blocks(parts)
    assert len(blocks) == config.num_hidden_layers
    for layer in range(config.num_hidden_layers - 1):
        some = moves(parts, layer)
        truth = in_float64(model, layer, some)
        for memory in (0, 2**30):
            ours = plain_continued(parts, blocks, layer, some, QUERY, memory)
            torch.testing.assert_close(ours.double(), truth, rtol=0, atol=2e-6 * float(truth.abs().max()))
        assert (truth[0] - truth[1:]).abs().amax((1, 2)).min() > 1e-2
        assert agrees(parts, blocks, layer, some, QUERY)


def test_a_neuron_that_takes_nearly_all_of_the_stream_moves_its_norm_exactly() -> None:
    model = random_model(PLAIN["parallel"])
    parts = anatomy(model)
    some = moves(parts, 1)
    stream = -0.99 * some.rows[:1].expand(12, -1) + 1e-3 * some.stream
    alone = Moves(stream, torch.ones(1, 12), some.rows[:1])
    ours = plain_continued(parts, plain_blocks(parts), 1, alone, QUERY, 2**30)
    truth = in_float64(model, 1, alone)
    torch.testing.assert_close(ours.double(), truth, rtol=0, atol=1e-4 * float(truth.abs().max()))


@pytest.mark.parametrize("config", ["parallel", "llama"])
def test_weights_that_are_not_the_models_are_not_trusted(config: str) -> None:
    parts = anatomy(random_model(PLAIN[config]))
    blocks = plain_blocks(parts)
    for layer in range(len(blocks) - 1):
        for part in ("attention_in", "attention_out", "mlp_in", "mlp_out"):
            for changed in one_larger(getattr(blocks[-1], part)):
                other = replace(blocks[-1], **{part: changed})
                assert not agrees(parts, (*blocks[:-1], other), layer, moves(parts, layer), QUERY)


def test_a_position_of_huge_numbers_hides_no_other() -> None:
    parts = anatomy(random_model(PLAIN["llama"]))
    blocks, some = plain_blocks(parts), moves(parts, 2)
    some.stream[4, 3] = 1e4
    assert agrees(parts, blocks, 2, some, QUERY)
    for changed in one_larger(blocks[-1].attention_in):
        assert not agrees(parts, (*blocks[:-1], replace(blocks[-1], attention_in=changed)), 2, some, QUERY)


def one_larger(linears: Any) -> list[Any]:
    """Linear, or a tuple of them, of which each in turn is larger by a hundredth."""
    if isinstance(linears, Linear):
        return [replace(linears, weight=linears.weight * 1.01)]
    return [
        (*linears[:i], replace(linear, weight=linear.weight * 1.01), *linears[i + 1 :])
        for i, linear in enumerate(linears)
    ]


def test_attention_with_norms_of_its_own_runs_by_its_modules() -> None:
    for normed in (False, True):
        parts = anatomy(random_model(transformers.PhiConfig(qk_layernorm=normed, **GATED)))
        assert is_plain(parts) != normed
        assert bool(plain_blocks(parts)) != normed


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_other_families_and_other_numbers_run_by_their_modules(family: str) -> None:
    model = random_model(CONFIGS[family])
    assert bool(plain_blocks(anatomy(model))) == (CONFIGS[family].model_type in FAMILIES)
    assert not plain_blocks(anatomy(model.double()))


def test_threads_change_nothing() -> None:
    parts = anatomy(random_model(PLAIN["parallel"]))
    blocks, some, before = plain_blocks(parts), moves(parts, 1), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(plain_continued(parts, blocks, 1, some, QUERY, 0))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
