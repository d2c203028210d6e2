"""What is kept of earlier layers, against hooks on transformers' model and against the model run layer by layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from capture.test_by_layers import CONFIGS, by_layers, saved
from model.test_families import random_model, text

from rtdyn.capture import earlier_layers
from rtdyn.capture.earlier_layers import EarlierLayers, attention_by_layer, capture_earlier
from rtdyn.capture.forward_pass import capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.errors import OverflowedError
from rtdyn.model.families import anatomy

pytestmark = pytest.mark.slow  # seconds in all: every family

LAYERS = (1, 2)


def kept_of(model: object, mean_over: str = "kept", attention: bool = False) -> EarlierLayers:
    evaluation, positions = text()
    captured = capture(model, evaluation, positions, batch_tokens=32)
    return capture_earlier(
        model, evaluation, captured, LAYERS, mean_over=mean_over, attention=attention, batch_tokens=32
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_run_by_layers_gives_the_same(family: str, tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS[family]), tmp_path)
    ours, whole = (kept_of(model, attention=True) for model in (by_layers(checkpoint), load_model(checkpoint, "cpu")))
    close = partial(torch.testing.assert_close, atol=1e-6, rtol=1e-5)
    close(ours.stream, whole.stream)
    close(ours.below, whole.below)
    of_heads = ("heads", "first_heads") if ours.anatomy.parallel_residual else ()
    for layer in LAYERS:
        for name in ("activations", "mean_parts", "attention", *of_heads):
            close(getattr(ours.layers[layer], name), getattr(whole.layers[layer], name))
        torch.testing.assert_close(ours.layers[layer].anatomy.output_rows, whole.layers[layer].anatomy.output_rows)


@pytest.mark.parametrize("mean_over", ["kept", "all"])
def test_activations_and_their_means_are_the_models(mean_over: str) -> None:
    model = random_model(CONFIGS["llama"])
    parts, (evaluation, positions) = anatomy(model), text()
    assert parts.mlp_outputs[-1].module is parts.mlp_output
    earlier, seen = kept_of(model, mean_over), {}
    for layer in LAYERS:
        module = parts.mlp_outputs[layer].module
        module.register_forward_pre_hook(lambda _, inputs, layer=layer: seen.update({layer: inputs[0]}))
    model(torch.from_numpy(evaluation.windows.astype(np.int64)))
    for layer in LAYERS:
        kept = earlier.layers[layer]
        torch.testing.assert_close(kept.activations, seen[layer][positions.window, positions.query])
        counted = seen[layer].flatten(0, 1) if mean_over == "all" else seen[layer][torch.from_numpy(evaluation.kept)]
        torch.testing.assert_close(kept.moments.mean, counted.double().mean(0), atol=1e-6, rtol=1e-6)
        assert kept.mean_parts is not None and float(kept.mean_parts.sum(0).abs().max()) < 1e-6
        assert kept.anatomy.layer == layer and kept.residual is earlier.layers[LAYERS[0]].residual


def test_attention_is_kept_once_and_is_the_models() -> None:
    model = random_model(CONFIGS["llama"])
    evaluation, positions = text()
    earlier = kept_of(model, attention=True)
    count = len(earlier.anatomy.stack)
    assert [earlier.layers[layer].attention_layers for layer in LAYERS] == [(0, 1), (2,) if count > 4 else ()]
    windows = torch.from_numpy(evaluation.windows.astype(np.int64))
    reference = model(windows, output_attentions=True, output_hidden_states=True)
    for captured in earlier.layers.values():
        assert captured.attention is not None
        for k, layer in enumerate(captured.attention_layers):
            expected = reference.attentions[layer][positions.window, :, positions.query]
            torch.testing.assert_close(captured.attention[:, k], expected)
    torch.testing.assert_close(earlier.below, reference.hidden_states[0])
    without = kept_of(model)
    assert without.below is None and all(c.attention is None for c in without.layers.values())


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_of_attention_a_batch_holds_the_measured_positions_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()
    add = earlier_layers._Heads.add

    def seen_by(self: earlier_layers._Heads, seen: dict[tuple[str, int], torch.Tensor]) -> None:
        sizes.update(len(values) for (name, _), values in seen.items() if name in ("attention", "heads"))
        add(self, seen)

    monkeypatch.setattr(earlier_layers._Heads, "add", seen_by)
    kept_of(random_model(CONFIGS[family]), attention=True)
    assert sizes == {24, 12}, "12 positions of each window, two windows in the first batch and one in the second"


@pytest.mark.parametrize(
    ("layers", "final", "kept"),
    [
        ((0, 1, 2), 3, {0: (0,), 1: (1,), 2: ()}),
        ((1, 4), 6, {1: (0, 1), 4: (3, 4)}),
        ((1, 2), 5, {1: (0, 1), 2: (2,)}),
        ((0,), 1, {0: ()}),
        ((4,), 5, {4: (3,)}),
    ],
)
def test_each_attention_belongs_to_one_layer(
    layers: tuple[int, ...], final: int, kept: dict[int, tuple[int, ...]]
) -> None:
    assert attention_by_layer(layers, final) == kept


def test_an_overflow_names_its_layer() -> None:
    model = random_model(CONFIGS["llama"])
    evaluation, positions = text()
    captured = capture(model, evaluation, positions)
    model.model.layers[2].mlp.up_proj.weight.fill_(3e38)
    with pytest.raises(OverflowedError, match="layer 2"):
        capture_earlier(model, evaluation, captured, LAYERS)
