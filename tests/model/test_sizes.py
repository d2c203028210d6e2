"""Sizes counted from a config.json: those of the published models, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model.test_families import CASES, random_model

from rtdyn.capture.by_layers import _embeddings
from rtdyn.checkpoints.locate import checkpoint_shape
from rtdyn.errors import InputError
from rtdyn.model.families import anatomy
from rtdyn.model.sizes import model_shape
from rtdyn.suites.find import load_suites

PYTHIA = {
    "14m": (6, 128, 50304, 14067712, 1189888),
    "31m": (6, 256, 50304, 30494720, 4739072),
    "70m": (6, 512, 50304, 70426624, 18915328),
    "160m": (12, 768, 50304, 162322944, 85056000),
    "410m": (24, 1024, 50304, 405334016, 302311424),
    "1b": (16, 2048, 50304, 1011781632, 805736448),
    "1.4b": (24, 2048, 50304, 1414647808, 1208602624),
    "2.8b": (32, 2560, 50304, 2775208960, 2517652480),
    "6.9b": (32, 4096, 50432, 6857302016, 6444163072),
    "12b": (36, 5120, 50688, 11846072320, 11327027200),
}
"""Layers, width, vocabulary rows, parameters, and those but for embeddings: from 70m up those of arXiv 2304.01373."""


@pytest.mark.parametrize("size", PYTHIA)
def test_pythias_shapes_are_the_published_ones(size: str) -> None:
    layers, d, rows, parameters, without_embeddings = PYTHIA[size]
    shape = model_shape(dict(load_suites()[f"pythia-{size}"].shape), size)
    assert (shape.layers, shape.width, shape.logits, shape.neurons) == (layers, d, rows, 4 * d)
    assert (shape.inputs, shape.directions, shape.context) == (1, 1, 2048)
    assert shape.parameters == parameters == 2 * rows * d + layers * (12 * d * d + 13 * d) + 2 * d
    assert parameters - 2 * rows * d == without_embeddings
    assert shape.matrices == 12 * layers * d * d
    assert shape.block == 12 * d * d + 13 * d
    assert shape.embedding == rows * d
    assert shape.file_bytes == 2 * parameters + layers * 2048**2


def test_every_public_suite_has_its_shape() -> None:
    suites = load_suites()
    assert [name for name, suite in suites.items() if not suite.shape and not suite.pattern] == ["tiny"]
    for name, suite in suites.items():
        given = dict(suite.shape)
        if name.startswith("pythia"):
            assert given["parameters"] == PYTHIA[name.split("-")[1]][3]
        elif suite.shape:
            assert given["n_embd"] == (768 if "small" in name else 1024)


@pytest.mark.parametrize(("name", "layers", "d"), [("gpt2-small-x21", 12, 768), ("gpt2-medium-x21", 24, 1024)])
def test_gpt2s_embeddings_are_tied(name: str, layers: int, d: int) -> None:
    suite = next(s for s in load_suites().values() if s.name.endswith(name))
    shape = model_shape(dict(suite.shape), name)
    assert shape.parameters == 50257 * d + 1024 * d + layers * (12 * d * d + 13 * d) + 2 * d
    assert shape.embedding == 50257 * d + 1024 * d and shape.number_bytes == 4


@pytest.mark.parametrize(("family", "directions"), [("llama", 1), ("olmo2", 2)])
def test_gated_mlps_and_norms_behind_them_are_counted(family: str, directions: int) -> None:
    settings = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    settings |= {"num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 64}
    config = {"model_type": family, **settings, "tie_word_embeddings": False, "dtype": "bfloat16"}
    shape = model_shape(config, family)
    assert (shape.inputs, shape.directions, shape.masks, shape.number_bytes) == (2, directions, 0, 2)
    assert shape.matrices == 3 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 96)


@pytest.mark.parametrize("config", CASES)
def test_the_parts_of_every_family_are_all_it_has(config: Any) -> None:
    model = random_model(config)
    shape = model_shape(config.to_dict(), "mine")
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    parts = anatomy(model)
    blocks = [sum(p.numel() for p in block.parameters()) for block in parts.stack]
    embedding = {id(p): p.numel() for module in _embeddings(parts) for p in module.parameters()}
    assert (shape.block, shape.embedding) == (max(blocks), sum(embedding.values()))
    assert (shape.inputs, shape.neurons) == (len(parts.input_rows), len(parts.output_rows))
    assert shape.capped == (getattr(config, "final_logit_softcapping", None) is not None)
    assert shape.directions == (2 if config.model_type in ("olmo2", "olmo3", "gemma2", "gemma3_text") else 1)
    assert shape.context == (None if config.model_type == "bloom" else 32)
    assert shape.parallel_residual == getattr(config, "use_parallel_residual", config.model_type in ("phi", "gptj"))
    untold = {k: v for k, v in config.to_dict().items() if k != "tie_word_embeddings"}
    own = type(config)().tie_word_embeddings
    assert (model_shape(untold, "mine").parameters == shape.parameters) == (own == config.tie_word_embeddings)


def test_settings_that_a_config_leaves_out_are_the_familys_own() -> None:
    settings = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    assert model_shape({"model_type": "llama", "vocab_size": 100, **settings}, "mine").context == 2048


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": 70426625}, "make 70,426,624 parameters, not 70,426,625"),
        ({"model_type": "mamba"}, "'mamba', no transformer throughout"),
        ({"model_type": "falcon"}, "'falcon', which is not supported"),
        ({"num_attention_heads": 7}, "make no model"),
        ({"hidden_size": "wide"}, "make no model"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    config = {**dict(load_suites()["pythia-70m"].shape), **changes}
    with pytest.raises(InputError, match=words) as caught:
        model_shape(config, "mine")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("mine")


def test_what_a_config_says_of_its_parameters_is_not_held_against_it(tiny_folder: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_folder / "step0" / "config.json").read_text())
    for parameters in (7, "7B"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "parameters": parameters}))
        assert checkpoint_shape(tmp_path, "here") == model_shape(config, "here")
