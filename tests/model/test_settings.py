"""Configurations of programs that ran a model otherwise, and of quantised weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback.place import TINY, copy_step
from safetensors.torch import load_file, save_file
from support.tracking import refused, rtdyn

from rtdyn.capture.forward_pass import capture
from rtdyn.capture.layered_model import open_model
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.checkpoints.locate import checkpoint_shape
from rtdyn.errors import InputError
from rtdyn.model.families import check_config
from rtdyn.model.stored_names import QUANTISED
from rtdyn.suites.find import find_suite
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation, prepare
from rtdyn.text.options import EvaluationOptions

OF_PROGRAMS: list[dict[str, Any]] = [
    {"torch_dtype": "auto"},
    {"dtype": "auto"},
    {"dtype": "torch.float16"},
    {"dtype": "half-ish"},
    {"dtype": {"text": "float16"}},
    {"dtype": None},
    {"return_dict": False},
    {"use_return_dict": False},
    {"torchscript": True, "output_attentions": True, "output_hidden_states": True},
    {"attn_implementation": "flash_attention_2", "_attn_implementation": "flash_attention_2"},
    {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}},
    {"quantization_config": None},
]


def suite_with(folder: Path, **settings: Any) -> Path:
    step = copy_step(4000, folder / "suite")
    config = json.loads((step / "config.json").read_text())
    if "torch_dtype" in settings:
        config.pop("dtype", None)
    (step / "config.json").write_text(json.dumps({**config, **settings}))
    return folder / "suite"


@pytest.fixture(scope="module")
def few(tiny: SuiteSpec, options: EvaluationOptions) -> Evaluation:
    return prepare(tiny, 4000, replace(options, tokens=1536, bands=("0.65:0.95",), min_targets=10))


@pytest.fixture(scope="module")
def loss(takes_long: None, tiny: SuiteSpec, few: Evaluation) -> torch.Tensor:
    """Of the model as it is."""
    return capture(load_model(fetch_local(tiny, 4000), "cpu"), few.text, few.positions).loss


@pytest.mark.slow
@pytest.mark.parametrize("settings", OF_PROGRAMS, ids=lambda s: "+".join(s))
def test_how_a_program_ran_a_model_changes_nothing(
    settings: dict[str, Any], tmp_path: Path, few: Evaluation, loss: torch.Tensor
) -> None:
    folder = suite_with(tmp_path, **settings)
    checkpoint = fetch_local(find_suite(str(folder), {}), 4000)
    shape, plain = checkpoint_shape(checkpoint.folder, "here"), checkpoint_shape(TINY / "step4000", "here")
    assert (shape.parameters, shape.neurons, shape.width) == (plain.parameters, plain.neurons, plain.width)
    for by_layers in (False, True):
        model = open_model(checkpoint, "cpu", by_layers, 1 << 30)
        assert torch.allclose(capture(model, few.text, few.positions).loss, loss, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "size"), [("float16", 2), ("torch.bfloat16", 2), ("torch.float64", 8), ("auto", 4), (None, 4)]
)
def test_the_bytes_of_a_number_are_those_of_the_dtype(tmp_path: Path, dtype: str | None, size: int) -> None:
    step = suite_with(tmp_path, dtype=dtype) / "step4000"
    assert checkpoint_shape(step, "here").number_bytes == size


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq 4 bits"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq 4 bits"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config"),
        ({"quantization_config": "int8"}, "quantization_config"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization: 4 bits"),
        ({"compression_config": {"format": "pack-quantized"}}, "pack-quantized"),
    ],
)
def test_a_quantised_checkpoint_is_refused_by_what_it_is(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = suite_with(tmp_path, **settings)
    with pytest.raises(InputError, match=f"here is quantised .*{said}"):
        check_config(json.loads((folder / "step4000" / "config.json").read_text()), "here")
    for command in ("track", "plan"):
        refused(rtdyn(command, "--model", folder, "--analyses", "heavytail"), 3, "is quantised", said)
    assert not list(tmp_path.glob("runs*"))


def test_the_names_of_quantised_weights_are_known_and_no_others() -> None:
    weight = "model.layers.0.mlp.up_proj"
    signs = ("qweight", "qzeros", "g_idx", "SCB", "weight.absmax", "weight.quant_state.bitsandbytes__nf4")
    assert all(QUANTISED.search(f"{weight}.{sign}") for sign in (*signs, "weight_scale", "weight_packed"))
    assert not any(QUANTISED.search(name) for name in load_file(TINY / "step4000" / "model.safetensors"))


def to_int8(weights: dict[str, torch.Tensor]) -> None:
    name = "gpt_neox.layers.2.mlp.dense_4h_to_h.weight"
    weights[name] = (weights[name].float() * 50).to(torch.int8)


def to_gptq(weights: dict[str, torch.Tensor]) -> None:
    name = "gpt_neox.layers.2.mlp.dense_4h_to_h"
    del weights[f"{name}.weight"]
    weights[f"{name}.qweight"], weights[f"{name}.scales"] = torch.zeros(4, 4, dtype=torch.int32), torch.ones(4)


@pytest.mark.slow
@pytest.mark.parametrize("rounded", [to_int8, to_gptq])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("how", ["whole", "by layers"])
def test_rounded_weights_are_refused_though_no_config_says_so(
    rounded: Callable[[dict[str, torch.Tensor]], None], form: str, how: str, tmp_path: Path
) -> None:
    folder = suite_with(tmp_path)
    file = folder / "step4000" / "model.safetensors"
    weights = load_file(file)
    rounded(weights)
    if form == "bin":
        file.unlink()
        torch.save(weights, file.with_name("pytorch_model.bin"))
    else:
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="is quantised"):
        open_model(fetch_local(find_suite(str(folder), {}), 4000), "cpu", how == "by layers", 1 << 30)
    arguments = ("--out", tmp_path / "run", "--analyses", "heavytail", "--wandb", "disabled")
    assert rtdyn("track", "--model", folder, *arguments).exit_code == 3
