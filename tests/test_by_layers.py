"""A model run layer by layer against the same model run whole."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_families import GATED, SHAPE, random_model, text

from rtdyn.capture import Capture, capture
from rtdyn.checkpoints.checkpoint import Checkpoint, load_model, weight_files
from rtdyn.checkpoints.layered import LayeredModel, open_model

LAYERS = {"num_hidden_layers": 4}
CONFIGS: dict[str, Any] = {
    "gpt_neox": transformers.GPTNeoXConfig(hidden_size=24, intermediate_size=40, num_attention_heads=4,
                                           max_position_embeddings=32, **SHAPE, **LAYERS),
    "gpt_neox-sequential": transformers.GPTNeoXConfig(hidden_size=24, intermediate_size=40, num_attention_heads=4,
                                                      max_position_embeddings=32, use_parallel_residual=False,
                                                      **SHAPE, **LAYERS),
    "gpt2": transformers.GPT2Config(n_embd=24, n_inner=40, n_layer=4, n_head=4, n_positions=32, **SHAPE),
    "llama": transformers.LlamaConfig(num_key_value_heads=2, tie_word_embeddings=False, **{**GATED, **LAYERS}),
    "llama-tied": transformers.LlamaConfig(num_key_value_heads=2, tie_word_embeddings=True, **{**GATED, **LAYERS}),
    "olmo": transformers.OlmoConfig(tie_word_embeddings=False, **{**GATED, **LAYERS}),
    "olmo2": transformers.Olmo2Config(num_key_value_heads=2, tie_word_embeddings=False, **{**GATED, **LAYERS}),
}  # fmt: skip
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LARGE = 2**30


def saved(model: Any, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "20KB") -> Checkpoint:
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return checkpoint_in(folder)


def checkpoint_in(folder: Path) -> Checkpoint:
    names = {file.name for file in folder.iterdir()}
    files = weight_files(names, lambda name: json.loads((folder / name).read_text()), str(folder))
    return Checkpoint(0, folder, "step0", None, dict.fromkeys(files, ""))


def saved_as_bin(folder: Path) -> Checkpoint:
    """The folder's safetensors as two `.bin` shards."""
    whole: dict[str, torch.Tensor] = load_model(checkpoint_in(folder), "cpu").state_dict()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    names = sorted(whole)
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for shard, own in shards.items():
        torch.save({name: whole[name].clone() for name in own}, folder / shard)
    weight_map = {name: shard for shard, own in shards.items() for name in own}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return checkpoint_in(folder)


def by_layers(checkpoint: Checkpoint, memory_bytes: int = LARGE) -> LayeredModel:
    model = open_model(checkpoint, "cpu", "always", memory_bytes)
    assert isinstance(model, LayeredModel)
    return model


def captures(checkpoint: Checkpoint, attention: bool = True, memory_bytes: int = LARGE) -> tuple[Capture, Capture]:
    evaluation, positions = text()
    models = load_model(checkpoint, "cpu"), by_layers(checkpoint, memory_bytes)
    layered, whole = (capture(m, evaluation, positions, attention=attention, batch_tokens=32) for m in models[::-1])
    return layered, whole


def assert_same(one: Any, other: Any, path: str = "") -> int:
    """Every tensor of two dataclasses, float32 round-off apart; returns how many there are."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=lambda m: f"{path}: {m}")
        return 1
    if isinstance(one, np.ndarray):
        assert np.array_equal(one, other), path
        return 1
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return sum(assert_same(one[k], other[k], f"{path}.{k}") for k in one)
    if hasattr(one, "__dataclass_fields__"):
        named = [(f.name, getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
        return sum(assert_same(a, b, f"{path}.{name}") for name, a, b in named)
    assert (one is None) == (other is None), path
    return 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", CONFIGS)
def test_all_that_is_captured_is_what_the_whole_model_gives(family: str, dtype: str, tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS[family]), tmp_path, DTYPES[dtype])
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    layered, whole = captures(checkpoint)
    assert layered.attention is not None and layered.stream is not None
    assert assert_same(layered, whole) >= 20
