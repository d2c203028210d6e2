"""What is kept of earlier layers, against hooks on transformers' model and against the model run layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from capture.test_by_layers import CONFIGS, by_layers, saved
from model.test_families import random_model, text

from rtdyn.capture.earlier_layers import EarlierLayers, capture_earlier
from rtdyn.capture.forward_pass import capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.errors import OverflowedError
from rtdyn.model.families import anatomy

pytestmark = pytest.mark.slow  # seconds in all: every family

LAYERS = (1, 2)


def kept_of(model: object, mean_over: str = "kept") -> EarlierLayers:
    evaluation, positions = text()
    captured = capture(model, evaluation, positions, batch_tokens=32)
    return capture_earlier(model, evaluation, captured, LAYERS, mean_over=mean_over, batch_tokens=32)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_run_by_layers_gives_the_same(family: str, tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS[family]), tmp_path)
    ours, whole = kept_of(by_layers(checkpoint)), kept_of(load_model(checkpoint, "cpu"))
    torch.testing.assert_close(ours.stream, whole.stream, atol=1e-6, rtol=1e-5)
    for layer in LAYERS:
        for name in ("activations", "mean_parts"):
            torch.testing.assert_close(
                getattr(ours.layers[layer], name), getattr(whole.layers[layer], name), atol=1e-6, rtol=1e-5
            )
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


def test_an_overflow_names_its_layer() -> None:
    model = random_model(CONFIGS["llama"])
    evaluation, positions = text()
    captured = capture(model, evaluation, positions)
    model.model.layers[2].mlp.up_proj.weight.fill_(3e38)
    with pytest.raises(OverflowedError, match="layer 2"):
        capture_earlier(model, evaluation, captured, LAYERS)
