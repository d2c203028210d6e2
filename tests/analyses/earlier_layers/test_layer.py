"""Effects of earlier layers' neurons against float64 hooks on the whole model, and estimates against full truths."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from model.test_families import BY_KIND, GATED, GEMMA, PARTIAL, SHAPE, random_model, text

from rtdyn.analyses.earlier_layers.calibration import Sampled, calibrate, ranks
from rtdyn.analyses.earlier_layers.layer import Layer, LayerClass, _ranking, measure_layers
from rtdyn.analyses.earlier_layers.sample import Budget, Sample
from rtdyn.capture.earlier_layers import EarlierLayers, capture_earlier
from rtdyn.capture.forward_pass import capture
from rtdyn.model.families import anatomy
from rtdyn.names import RARE
from rtdyn.text.positions import MeasuredPositions
from rtdyn.text.windows import EvaluationSet
from rtdyn.undefined import Undefined

THREE = {"num_hidden_layers": 3}
NEOX = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "max_position_embeddings": 32}
CONFIGS: dict[str, Any] = {
    "parallel": transformers.GPTNeoXConfig(**NEOX, **SHAPE, **THREE),
    "sequential": transformers.GPTNeoXConfig(use_parallel_residual=False, **NEOX, **SHAPE, **THREE),
    "gpt2": transformers.GPT2Config(n_embd=24, n_inner=40, n_layer=3, n_head=4, n_positions=32, **SHAPE),
    "llama": transformers.LlamaConfig(num_key_value_heads=2, tie_word_embeddings=True, **{**GATED, **THREE}),
    "olmo": transformers.OlmoConfig(tie_word_embeddings=False, **{**GATED, **THREE}),
    "olmo2": transformers.Olmo2Config(num_key_value_heads=2, tie_word_embeddings=False, **{**GATED, **THREE}),
    "gemma2": transformers.Gemma2Config(
        final_logit_softcapping=5.0, attn_logit_softcapping=5.0, sliding_window=16, **{**GEMMA, **THREE}
    ),
    "gemma3_text": transformers.Gemma3TextConfig(
        **{**GEMMA, **BY_KIND, **THREE, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    ),
    "stablelm": transformers.StableLmConfig(
        num_key_value_heads=2, use_parallel_residual=True, **{**PARTIAL, **GATED, **THREE}
    ),
    "opt": transformers.OPTConfig(
        hidden_size=24,
        ffn_dim=40,
        num_attention_heads=4,
        max_position_embeddings=32,
        word_embed_proj_dim=24,
        pad_token_id=None,
        **SHAPE,
        **THREE,
    ),
    "gptj": transformers.GPTJConfig(n_embd=24, n_inner=40, n_layer=3, n_head=4, n_positions=32, rotary_dim=4, **SHAPE),
    "bloom": transformers.BloomConfig(hidden_size=24, n_layer=3, n_head=4, **SHAPE),
}
GIB = 2**30
EVERYTHING = Budget(top=10**6, uniform=10**6, reruns=1.0)


def captured_layers(model: Any, layers: tuple[int, ...] = (0, 1)) -> EarlierLayers:
    evaluation, positions = text()
    captured = capture(model, evaluation, positions, batch_tokens=32)
    return capture_earlier(model, evaluation, captured, layers, batch_tokens=32)


def measured(earlier: EarlierLayers, budget: Budget, seed: int = 0) -> dict[int, Layer]:
    return measure_layers(
        earlier, np.arange(3), rank_by="mean_abs", tolerance=1e-7, seed=seed, memory_bytes=GIB, budget=budget
    )


def hooked_losses(
    model: Any, layer: int, evaluation: EvaluationSet, positions: MeasuredPositions, change: Any
) -> torch.Tensor:
    """float64 (N,): losses with the layer's activations passed through `change`, of the whole model."""
    module = anatomy(model).mlp_outputs[layer].module
    handle = module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0].clone()),))
    logits = model(torch.from_numpy(evaluation.windows.astype(np.int64))).logits
    handle.remove()
    chosen = logits[positions.window, positions.query]
    return torch.nn.functional.cross_entropy(chosen, torch.from_numpy(positions.target), reduction="none")


def brute_force(model: Any, layer: int, mean: torch.Tensor) -> torch.Tensor:
    """float64 (N, F): change of loss where each neuron becomes its mean at every position."""
    whole = copy.deepcopy(model).double()
    evaluation, positions = text()
    before = hooked_losses(whole, layer, evaluation, positions, lambda a: a)
    columns = []
    for i in range(len(mean)):

        def replace(a: torch.Tensor, i: int = i) -> torch.Tensor:
            a[..., i] = mean[i]
            return a

        columns.append(hooked_losses(whole, layer, evaluation, positions, replace) - before)
    return torch.stack(columns, dim=1)


def derivatives(model: Any, layer: int, mean: torch.Tensor) -> torch.Tensor:
    """float64 (N, F): of the loss by the part of the way that each neuron goes to its mean, at no part."""
    whole = copy.deepcopy(model).double()
    part = torch.zeros_like(mean, requires_grad=True)
    losses = hooked_losses(whole, layer, *text(), lambda a: a + part * (mean - a))
    return torch.stack([torch.autograd.grad(loss, part, retain_graph=True)[0] for loss in losses])


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_familys_effects_are_those_of_hooks_on_the_whole_model(config: Any) -> None:
    model = random_model(config)
    earlier = captured_layers(model)
    for layer, result in measured(earlier, EVERYTHING).items():
        mean = earlier.layers[layer].moments.mean
        truth = brute_force(model, layer, mean)
        c = result.classes["rare"]
        assert np.abs(c.signed.value - truth.mean(0).numpy()).max() < 2e-5
        assert np.abs(c.absolute.value - truth.abs().mean(0).numpy()).max() < 2e-5
        assert truth.abs().mean() > 1e-2
        slope = derivatives(model, layer, mean)
        assert np.abs(c.signed.first_order - slope.mean(0).numpy()).max() < 2e-5
        assert np.abs(c.absolute.first_order - slope.abs().mean(0).numpy()).max() < 2e-5
        assert result.reruns == 3 * len(mean) and result.ranks is True


def test_neurons_are_ranked_by_sizes_only_where_sizes_agree() -> None:
    """Means of Δ that agree in their signs alone correlate; how large they are does not."""
    rng = np.random.default_rng(0)
    signs = np.where(np.arange(60) % 2, 1.0, -1.0)
    first, exact = (signs * (1 + rng.random(60)) for _ in range(2))
    alike = SimpleNamespace(value=np.abs(exact), first_order=np.abs(exact))
    signed = SimpleNamespace(value=exact, first_order=first)
    sample = cast(Sample, SimpleNamespace(uniform=np.arange(60), top=np.arange(4)))
    rare = cast(LayerClass, SimpleNamespace(signed=signed, absolute=alike))
    by_size, by_abs = (_ranking(rare, sample, rank_by) for rank_by in ("abs_mean", "mean_abs"))
    assert isinstance(by_size, Sampled) and isinstance(by_abs, Sampled)
    assert calibrate(first, exact, sample).spearman.value > 0.7  # type: ignore[union-attr]  # it is defined
    assert isinstance(ranks(by_size, False), Undefined) and by_size.value < 0.4
    assert ranks(by_abs, False) is True


def test_ranks_do_not_mix_the_scales_of_what_was_measured_and_of_the_first_order() -> None:
    """A first order that is twice the effect correlates with it at 1; the places are the effect's all the same."""
    rng = np.random.default_rng(0)
    effect = rng.lognormal(size=600)
    measured = np.zeros(600, dtype=bool)
    measured[np.argsort(-effect)[:50]] = True
    uniform = np.sort(rng.choice(600, 50, replace=False))
    measured[uniform] = True
    mean = SimpleNamespace(value=np.where(measured, effect, np.nan), first_order=2 * effect)
    sample = SimpleNamespace(uniform=uniform, measured=measured)
    layer = SimpleNamespace(ranks=True, sample=sample, classes={RARE: SimpleNamespace(absolute=mean)})
    places = Layer.rank(cast(Layer, layer), "mean_abs")
    assert isinstance(places, np.ndarray)
    np.testing.assert_array_equal(np.argsort(places), np.argsort(-effect))
