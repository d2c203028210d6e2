"""A model run layer by layer against the same model run whole."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from model.test_families import BY_KIND, GATED, GEMMA, PARTIAL, SHAPE, random_model, text
from safetensors.torch import load_file, save_file

from rtdyn.analyses.options import StepOptions
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.capture.layered_model import LayeredModel, open_model
from rtdyn.capture.memory_need import Sample, memory
from rtdyn.checkpoints.checkpoint import Checkpoint, check_keys, load_model, read_config, weight_files
from rtdyn.checkpoints.local import fetch_local
from rtdyn.checkpoints.tensors import read_final_mlp
from rtdyn.errors import InputError
from rtdyn.model.sizes import model_shape
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep import step
from rtdyn.text.evaluation import Evaluation

pytestmark = pytest.mark.slow  # seconds in all: every family

LAYERS = {"num_hidden_layers": 4}
BY_KIND_4 = {**LAYERS, **BY_KIND, "layer_types": 2 * BY_KIND["layer_types"]}
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
    "mistral": transformers.MistralConfig(num_key_value_heads=2, sliding_window=32, **{**GATED, **LAYERS}),
    "qwen2": transformers.Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, use_sliding_window=True,
                                      sliding_window=32, max_window_layers=2, **{**GATED, **LAYERS}),
    "qwen3": transformers.Qwen3Config(num_key_value_heads=2, head_dim=6, **{**GATED, **LAYERS}),
    "smollm3": transformers.SmolLM3Config(num_key_value_heads=2, no_rope_layers=[1, 0, 1, 0],
                                          **{**GATED, **LAYERS}),
    "olmo3": transformers.Olmo3Config(num_key_value_heads=2, tie_word_embeddings=False, **{**GATED, **BY_KIND_4}),
    "apertus": transformers.ApertusConfig(num_key_value_heads=2, tie_word_embeddings=False, **{**GATED, **LAYERS}),
    "gemma": transformers.GemmaConfig(**{**GEMMA, **LAYERS}),
    "gemma2": transformers.Gemma2Config(final_logit_softcapping=5.0, attn_logit_softcapping=5.0, sliding_window=16,
                                        **{**GEMMA, **LAYERS}),
    "vaultgemma": transformers.VaultGemmaConfig(final_logit_softcapping=5.0, attn_logit_softcapping=5.0,
                                                sliding_window=16, **{**GEMMA, **LAYERS}),
    "gemma3_text": transformers.Gemma3TextConfig(**{**GEMMA, **BY_KIND_4}),
    "phi": transformers.PhiConfig(tie_word_embeddings=False, **{**PARTIAL, **GATED, **LAYERS}),
    "phi3": transformers.Phi3Config(num_key_value_heads=2, tie_word_embeddings=False, **{**GATED, **LAYERS}),
    "stablelm": transformers.StableLmConfig(num_key_value_heads=2, qk_layernorm=True, tie_word_embeddings=False,
                                            **{**PARTIAL, **GATED, **LAYERS}),
    "opt": transformers.OPTConfig(hidden_size=24, ffn_dim=40, num_attention_heads=4, max_position_embeddings=32,
                                  word_embed_proj_dim=24, pad_token_id=None, **SHAPE, **LAYERS),
    "gptj": transformers.GPTJConfig(n_embd=24, n_inner=40, n_layer=4, n_head=4, n_positions=32, rotary_dim=4,
                                    tie_word_embeddings=False, **SHAPE),
    "bloom": transformers.BloomConfig(hidden_size=24, n_layer=4, n_head=4, **SHAPE),
}  # fmt: skip
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STORED = [(family, "float32") for family in CONFIGS]
STORED += [(family, half) for family in ("gpt_neox", "llama-tied", "apertus") for half in ("float16", "bfloat16")]
"""Families, and numbers that their files hold."""
LARGE = 2**30


def saved(model: Any, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "20KB") -> Checkpoint:
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return checkpoint_in(folder)


def checkpoint_in(folder: Path) -> Checkpoint:
    names = {file.name for file in folder.iterdir()}
    files = weight_files(names, lambda name: json.loads((folder / name).read_text()), str(folder))
    return Checkpoint(0, folder, "step0", None, dict.fromkeys(files, ""))


def saved_as_bin(folder: Path, prefix: str = "") -> Checkpoint:
    """The folder's safetensors as two `.bin` shards."""
    whole: dict[str, torch.Tensor] = load_model(checkpoint_in(folder), "cpu").state_dict()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    names = sorted(whole)
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for shard, own in shards.items():
        torch.save({prefix + name: whole[name].clone() for name in own}, folder / shard)
    weight_map = {prefix + name: shard for shard, own in shards.items() for name in own}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return checkpoint_in(folder)


def by_layers(checkpoint: Checkpoint, memory_bytes: int = LARGE) -> LayeredModel:
    model = open_model(checkpoint, "cpu", True, memory_bytes)
    assert isinstance(model, LayeredModel)
    return model


def captures(checkpoint: Checkpoint, attention: bool = True, memory_bytes: int = LARGE) -> tuple[Capture, Capture]:
    evaluation, positions = text()
    models = load_model(checkpoint, "cpu"), by_layers(checkpoint, memory_bytes)
    whole, by_layers_ = (capture(m, evaluation, positions, attention=attention, batch_tokens=32) for m in models)
    return by_layers_, whole


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


@pytest.mark.parametrize(("family", "dtype"), STORED)
def test_all_that_is_captured_is_what_the_whole_model_gives(family: str, dtype: str, tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS[family]), tmp_path, DTYPES[dtype])
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours, whole = captures(checkpoint)
    assert ours.attention is not None and ours.stream is not None
    assert assert_same(ours, whole) >= 20


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama-tied"])
def test_hidden_states_in_a_file_change_nothing(family: str, tmp_path: Path) -> None:
    assert assert_same(*captures(saved(random_model(CONFIGS[family]), tmp_path), memory_bytes=0)) >= 20


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama-tied"])
def test_bin_shards_are_read_as_safetensors_are(family: str, tmp_path: Path) -> None:
    saved(random_model(CONFIGS[family]), tmp_path)
    assert assert_same(*captures(saved_as_bin(tmp_path))) >= 20


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("attention", [False, True])
def test_models_of_few_layers_are_run_too(layers: int, attention: bool, tmp_path: Path) -> None:
    config = transformers.GPTNeoXConfig(**{**CONFIGS["gpt_neox"].to_dict(), "num_hidden_layers": layers})
    assert assert_same(*captures(saved(random_model(config), tmp_path), attention)) >= 12


def renamed(checkpoint: Checkpoint, rename: Callable[[str], str], more: dict[str, torch.Tensor]) -> Checkpoint:
    """The same tensors under other names, in one file."""
    stored = {n: t for file in checkpoint.folder.glob("*.safetensors") for n, t in load_file(file).items()}
    for file in checkpoint.folder.glob("*.safetensors*"):
        file.unlink()
    save_file({**{rename(n): t for n, t in stored.items()}, **more}, checkpoint.folder / "model.safetensors")
    return checkpoint_in(checkpoint.folder)


@pytest.mark.parametrize(
    ("family", "rename", "buffer"),
    [
        ("gpt_neox", lambda name: name.replace("lm_head", "embed_out"), "gpt_neox.layers.0.attention.masked_bias"),
        ("gpt_neox", lambda name: name, "gpt_neox.layers.1.attention.rotary_emb.inv_freq"),
        ("gpt2", lambda name: name.removeprefix("transformer."), "h.0.attn.bias"),
        ("gpt2", lambda name: name, "transformer.h.1.attn.bias"),
        ("gpt2", lambda name: name, "transformer.h.1.attn.masked_bias"),
        ("gpt2", lambda name: name.removeprefix("transformer."), "h.0.attn.masked_bias"),
        ("llama", lambda name: name, "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("olmo", lambda name: name, "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gptj", lambda name: name, "transformer.h.1.attn.masked_bias"),
        ("bloom", lambda name: name.removeprefix("transformer."), "h.0.attn.bias"),
        ("opt", lambda name: name.removeprefix("model."), "decoder.layers.0.self_attn.rotary_emb.inv_freq"),
    ],
    ids=[
        "embed_out",
        "neox",
        "gpt2-base",
        "gpt2",
        "gpt2-masked",
        "gpt2-base-masked",
        "llama",
        "olmo",
        "gptj",
        "bloom-base",
        "opt-base",
    ],
)
def test_names_and_constants_of_old_checkpoints_are_known(
    family: str, rename: Callable[[str], str], buffer: str, tmp_path: Path
) -> None:
    checkpoint = saved(random_model(CONFIGS[family]), tmp_path)
    checkpoint = renamed(checkpoint, rename, {buffer: torch.ones(3)})
    assert assert_same(*captures(checkpoint)) >= 20


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama-tied", "olmo"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "base_model.model.", "module._orig_mod."])
def test_a_prefix_of_all_names_changes_nothing(prefix: str, family: str, kind: str, tmp_path: Path) -> None:
    plain = saved(random_model(CONFIGS[family]), tmp_path / "plain", shard="1GB")
    _, inputs, output = read_final_mlp(plain.folder)
    folder = shutil.copytree(plain.folder, tmp_path / "wrapped")
    wrapped = saved_as_bin(folder, prefix) if kind == "bin" else renamed(checkpoint_in(folder), prefix.__add__, {})
    expected = load_model(plain, "cpu").state_dict()
    ours = load_model(wrapped, "cpu").state_dict()
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    layered = by_layers(wrapped)
    layered.fill(*layered.skeleton.modules())
    for name, values in layered.skeleton.named_parameters():
        assert torch.equal(values, expected[name]), name
    _, ours_in, ours_out = read_final_mlp(folder)
    assert torch.equal(ours_out, output) and all(torch.equal(ours_in[k], inputs[k]) for k in inputs)


@pytest.mark.parametrize("family", ["gpt2", "llama-tied"])
def test_byte_order_marks_of_config_and_index_are_dropped(family: str, tmp_path: Path) -> None:
    plain = saved(random_model(CONFIGS[family]), tmp_path)
    expected, (_, inputs, output) = load_model(plain, "cpu").state_dict(), read_final_mlp(tmp_path)
    files = list(tmp_path.glob("*.json"))
    assert {"config.json", "model.safetensors.index.json"} <= {file.name for file in files}
    for file in files:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    ours = load_model(plain, "cpu").state_dict()
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    layered = by_layers(plain)
    layered.fill(*layered.skeleton.modules())
    assert all(torch.equal(values, expected[name]) for name, values in layered.skeleton.named_parameters())
    _, ours_in, ours_out = read_final_mlp(tmp_path)
    assert torch.equal(ours_out, output) and all(torch.equal(ours_in[k], inputs[k]) for k in inputs)


def test_a_config_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS["gpt2"]), tmp_path)
    (tmp_path / "config.json").write_text("[" * 200000)
    with pytest.raises(InputError, match=r"config.json is not readable JSON"):
        load_model(checkpoint, "cpu")


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_a_mixture_of_prefixed_and_plain_names_is_refused(family: str, tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS[family]), tmp_path)

    def some(name: str) -> str:
        return name if "layers.1" in name or "h.1" in name else f"_orig_mod.{name}"

    checkpoint = renamed(checkpoint, some, {})
    for load in (lambda: load_model(checkpoint, "cpu"), lambda: by_layers(checkpoint)):
        with pytest.raises(InputError, match=r"do not fit their config.json: missing keys"):
            load()


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "olmo", "olmo2"])
def test_no_parameter_of_a_family_is_taken_for_an_old_constant(family: str, tmp_path: Path) -> None:
    names = {name for name, _ in random_model(CONFIGS[family]).named_parameters()}
    for name in names:
        with pytest.raises(InputError, match=f"unexpected keys {re.escape(name)}$"):
            check_keys(tmp_path, {"missing_keys": set(), "unexpected_keys": {name}, "mismatched_keys": set()})


@pytest.mark.parametrize("name", ["transformer.h.1.attn.c_attn.bias", "transformer.h.1.attn.c_proj.bias"])
def test_a_missing_bias_of_attention_is_refused(name: str, tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS["gpt2"]), tmp_path, shard="1GB")
    stored = load_file(tmp_path / "model.safetensors")
    del stored[name]
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (lambda: load_model(checkpoint, "cpu"), lambda: by_layers(checkpoint)):
        with pytest.raises(InputError, match=f"missing keys {re.escape(name)}$"):
            load()


def test_one_block_at_a_time_is_in_memory_and_then_the_last(tmp_path: Path) -> None:
    model = by_layers(saved(random_model(CONFIGS["llama-tied"]), tmp_path))
    seen: list[set[str]] = []

    def filled() -> set[str]:
        names = {n for n, p in model.skeleton.named_parameters(remove_duplicate=False) if p.device.type != "meta"}
        return {".".join(name.split(".")[1:3]) for name in names}

    for block in model.skeleton.model.layers:
        block.register_forward_pre_hook(lambda module, inputs: seen.append(filled()))
    evaluation, positions = text()
    capture(model, evaluation, positions, batch_tokens=10**6)
    last = {"layers.3", "norm.weight", "weight"}
    assert seen == [{"embed_tokens.weight"}, {"layers.0"}, {"layers.1"}, {"layers.2"}, last]
    assert filled() == last


def drop_tensor(stored: dict[str, torch.Tensor]) -> None:
    del stored["model.layers.1.mlp.up_proj.weight"]


def add_tensor(stored: dict[str, torch.Tensor]) -> None:
    stored["model.layers.1.mlp.other.weight"] = torch.ones(2)


def poison(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(stored: dict[str, torch.Tensor]) -> None:
        stored["model.layers.2.self_attn.q_proj.weight"][1, 2] = value

    return change


def unlike(stored: dict[str, torch.Tensor]) -> None:
    stored["model.layers.1.mlp.up_proj.weight"] = torch.ones(40, 23)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_tensor, "missing keys model.layers.1.mlp.up_proj.weight"),
        (add_tensor, "unexpected keys model.layers.1.mlp.other.weight"),
        (poison(float("nan")), r"NaN or infinite values \(in model.layers.2.self_attn.q_proj.weight\)"),
        (poison(float("-inf")), r"NaN or infinite values \(in model.layers.2.self_attn.q_proj.weight\)"),
    ],
    ids=["missing", "unexpected", "nan", "inf"],
)
def test_damaged_weights_are_refused_in_the_same_words(
    damage: Callable[[dict[str, torch.Tensor]], None], words: str, tmp_path: Path
) -> None:
    checkpoint = saved(random_model(CONFIGS["llama"]), tmp_path, torch.float16, "1GB")
    stored = load_file(tmp_path / "model.safetensors")
    damage(stored)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=words) as whole:
        load_model(checkpoint, "cpu")
    with pytest.raises(InputError) as ours:
        capture(by_layers(checkpoint), *text())
    assert str(ours.value) == str(whole.value)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS["llama"]), tmp_path, shard="1GB")
    stored = load_file(tmp_path / "model.safetensors")
    unlike(stored)
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"mismatched keys model.layers.1.mlp.up_proj.weight"):
        by_layers(checkpoint)


@pytest.mark.parametrize("cut", [1000, 10**9])
def test_truncated_files_are_refused(cut: int, tmp_path: Path) -> None:
    checkpoint = saved(random_model(CONFIGS["llama"]), tmp_path, shard="1GB")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(InputError, match="truncated") as ours:
        by_layers(checkpoint)
    with pytest.raises(InputError) as whole:
        load_model(checkpoint, "cpu")
    assert str(ours.value) == str(whole.value)


def test_a_truncated_bin_file_is_refused(tmp_path: Path) -> None:
    saved(random_model(CONFIGS["llama"]), tmp_path)
    checkpoint = saved_as_bin(tmp_path)
    file = tmp_path / "pytorch_model-2.bin"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(InputError, match="cannot be loaded"):
        by_layers(checkpoint)


def test_hidden_states_that_the_disk_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = by_layers(saved(random_model(CONFIGS["gpt2"]), tmp_path), memory_bytes=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=r"GiB of hidden states do not fit into .*TMPDIR"):
            capture(model, *text(), batch_tokens=16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("family", ["gpt_neox", "phi", "llama", "gemma"])
def test_what_is_kept_is_no_more_than_the_plan_counts(family: str) -> None:
    evaluation, positions = text()
    captured = capture(random_model(CONFIGS[family]), evaluation, positions, attention=True)
    windows, length = evaluation.windows.shape
    sample = Sample(windows * length, length, len(positions.flat), None)
    shape = model_shape(CONFIGS[family].to_dict(), "here")
    counted = memory(shape, sample, 0, routing=True, layered=False).capture
    kept = (captured.residual, captured.activations, captured.attention, captured.stream)
    of_heads = (captured.heads, captured.first_heads)
    assert counted == sum(a.nbytes for a in (*kept, *of_heads) if a is not None)
    # heads of other models are run again, and may be wider than the stream
    assert [a is not None for a in of_heads] == 2 * [shape.parallel_residual]


@pytest.mark.slow
def test_auto_goes_by_layers_where_a_step_exceeds_what_is_available(
    tiny: SuiteSpec, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = fetch_local(tiny, 4000)
    windows = evaluation.text.windows
    sample = Sample(windows.size, windows.shape[1], len(evaluation.positions.flat), None)
    options = StepOptions(("ablation",), "kept", "mean_abs", 1e-5, 1.0, "auto", "cpu", 0)
    shape = model_shape(read_config(checkpoint.folder), "here")
    needed = memory(shape, sample, options.memory_bytes, routing=False, layered=False)
    assert needed.weights == 4 * sum(p.numel() for p in load_model(checkpoint, "cpu").parameters())

    def by_layers_with(room: int, **changes: Any) -> bool:
        monkeypatch.setattr(step, "available_bytes", lambda device: room)
        return step._runs_by_layers(checkpoint, evaluation, replace(options, **changes))

    assert not by_layers_with(needed.total)
    assert by_layers_with(needed.total - 1)
    assert by_layers_with(needed.total, analyses=("ablation", "routing")), "which keeps attention too"
    assert by_layers_with(needed.total, layers="-1,-2"), "whose activations are kept too"
    more = memory(shape, sample, options.memory_bytes, routing=False, layered=False, earlier_layers=(1,))
    assert not by_layers_with(more.total, layers="-1,-2") and by_layers_with(more.total, layers="all")
    streamed = [
        memory(shape, sample, options.memory_bytes, routing=False, layered=True, earlier_layers=layers).weights
        for layers in ((), (1,), (0, 1))
    ]
    assert np.diff(streamed).tolist() == [4 * shape.block] * 2, "the asked layers and all above them stay together"
    assert not by_layers_with(0, stream_layers="never") and by_layers_with(2**50, stream_layers="always")
    assert by_layers_with(2**50, task_memory_gib=0.125) and not by_layers_with(2**50, task_memory_gib=100.0)
