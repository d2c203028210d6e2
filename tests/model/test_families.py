"""Every family against hooks on transformers' own model: capture, closed form and all."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from analyses.influence.test_ablation import all_deltas
from torch import Tensor

from rtdyn.capture.forward_pass import capture
from rtdyn.checkpoints.tensors import mlp_tensors, read_final_mlp
from rtdyn.errors import InputError
from rtdyn.model.families import FAMILIES, anatomy, check_config, check_family
from rtdyn.model.other_families import why_not_dense
from rtdyn.text.positions import ClassPositions, MeasuredPositions
from rtdyn.text.windows import EvaluationSet

SHAPE = {"vocab_size": 71, "attn_implementation": "eager"}
GATED = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 32, "pad_token_id": None, **SHAPE}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
PARTIAL = {"rope_parameters": {**ROPE, "partial_rotary_factor": 2 / 3}}
BY_KIND: dict[str, Any] = {
    "rope_parameters": {"full_attention": {**ROPE, "rope_theta": 1e6}, "sliding_attention": ROPE},
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 16,
}
GEMMA = {"num_key_value_heads": 2, "head_dim": 10, **GATED}
CONFIGS: dict[str, list[Any]] = {
    "gpt_neox": [
        transformers.GPTNeoXConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                                   max_position_embeddings=32, use_parallel_residual=parallel, **SHAPE)
        for parallel in (True, False)
    ],
    "gpt2": [transformers.GPT2Config(n_embd=24, n_inner=40, n_layer=2, n_head=4, n_positions=32, **SHAPE)],
    "llama": [
        transformers.LlamaConfig(num_key_value_heads=2, tie_word_embeddings=tied, **GATED) for tied in (True, False)
    ],
    "olmo": [transformers.OlmoConfig(tie_word_embeddings=False, **GATED)],
    "olmo2": [transformers.Olmo2Config(num_key_value_heads=2, tie_word_embeddings=False, **GATED)],
    "mistral": [transformers.MistralConfig(num_key_value_heads=2, sliding_window=16, **GATED)],
    "qwen2": [transformers.Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **GATED)],
    "qwen3": [transformers.Qwen3Config(num_key_value_heads=2, head_dim=6, tie_word_embeddings=False, **GATED)],
    "smollm3": [transformers.SmolLM3Config(num_key_value_heads=2, no_rope_layers=[1, 0], **GATED)],
    "olmo3": [transformers.Olmo3Config(num_key_value_heads=2, tie_word_embeddings=False, **BY_KIND, **GATED)],
    "apertus": [transformers.ApertusConfig(num_key_value_heads=2, tie_word_embeddings=False, **GATED)],
    "gemma": [transformers.GemmaConfig(tie_word_embeddings=tied, **GEMMA) for tied in (True, False)],
    "gemma2": [transformers.Gemma2Config(final_logit_softcapping=cap, attn_logit_softcapping=5.0, sliding_window=16,
                                         query_pre_attn_scalar=12, **GEMMA) for cap in (None, 5.0)],
    "gemma3_text": [transformers.Gemma3TextConfig(final_logit_softcapping=cap, attn_logit_softcapping=cap, **BY_KIND,
                                                  **GEMMA) for cap in (None, 5.0)],
    "vaultgemma": [transformers.VaultGemmaConfig(final_logit_softcapping=5.0, attn_logit_softcapping=5.0,
                                                 sliding_window=16, query_pre_attn_scalar=12, **GEMMA)],
    "phi": [transformers.PhiConfig(tie_word_embeddings=tied, qk_layernorm=tied, **PARTIAL, **GATED)
            for tied in (True, False)],
    "phi3": [transformers.Phi3Config(num_key_value_heads=2, tie_word_embeddings=False, **GATED)],
    "stablelm": [
        transformers.StableLmConfig(num_key_value_heads=2, use_parallel_residual=parallel, use_qkv_bias=True,
                                    qk_layernorm=parallel, tie_word_embeddings=False, **PARTIAL, **GATED)
        for parallel in (True, False)
    ],
    "opt": [transformers.OPTConfig(hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4,
                                   max_position_embeddings=32, word_embed_proj_dim=24, pad_token_id=None,
                                   tie_word_embeddings=tied, **SHAPE) for tied in (True, False)],
    "gptj": [transformers.GPTJConfig(n_embd=24, n_inner=40, n_layer=2, n_head=4, n_positions=32, rotary_dim=4,
                                     tie_word_embeddings=False, **SHAPE)],
    "bloom": [transformers.BloomConfig(hidden_size=24, n_layer=2, n_head=4, **SHAPE)],
}  # fmt: skip
ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl")
CASES = [
    pytest.param(config, id=f"{name}-{i}") for name, configs in CONFIGS.items() for i, config in enumerate(configs)
]


def random_model(config: Any) -> Any:
    """A model whose weights, norms included, are far from their initial values."""
    torch.manual_seed(3)
    # of a copy, as a model whose attention is changed changes its configuration
    model = transformers.AutoModelForCausalLM.from_config(deepcopy(config)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if "norm" in name or "ln_" in name else 0.0))
    return model


def text() -> tuple[EvaluationSet, MeasuredPositions]:
    windows = np.random.default_rng(0).integers(3, 71, size=(3, 16)).astype(np.int32)
    kept = np.zeros_like(windows, dtype=bool)
    kept[:, 3:-1] = True
    flat = np.flatnonzero(kept.ravel())
    evaluation = EvaluationSet(windows, np.zeros(3, dtype=np.int32), kept, "")
    target = evaluation.targets.ravel()[flat].astype(np.int64)
    return evaluation, MeasuredPositions(
        flat, flat // 16, flat % 16, target, (ClassPositions("rare", len(flat), flat),)
    )


def hooked_losses(model: Any, evaluation: EvaluationSet, positions: MeasuredPositions, change: Any) -> Tensor:
    """Loss at the measured positions with the final MLP's activations passed through `change`."""
    handle = anatomy(model).mlp_output.register_forward_pre_hook(lambda module, inputs: (change(inputs[0].clone()),))
    logits = model(torch.from_numpy(evaluation.windows.astype(np.int64))).logits
    handle.remove()
    chosen = logits[positions.window, positions.query]
    return torch.nn.functional.cross_entropy(chosen, torch.from_numpy(positions.target), reduction="none")


@pytest.mark.parametrize("config", CASES)
def test_all_deltas_match_hooks_on_the_real_model(config: Any) -> None:
    model = random_model(config)
    evaluation, positions = text()
    captured = capture(model, evaluation, positions)
    blocks = {tolerance: all_deltas(captured, tolerance) for tolerance in (0.0, 1e-5, 1.0)}
    model.double()
    before = hooked_losses(model, evaluation, positions, lambda a: a)

    def ablated(neuron: int) -> Tensor:
        def change(a: Tensor) -> Tensor:
            a[..., neuron] = captured.moments.mean[neuron]
            return a

        return hooked_losses(model, evaluation, positions, change) - before

    expected = torch.stack([ablated(i) for i in range(captured.activations.shape[1])], dim=1)
    assert expected.abs().max() > 1e-2
    # the capture itself is a float32 forward pass: its own error comes on top of the certified one
    assert (blocks[0.0].delta - expected).abs().max() < 2e-5 * (1 + expected.abs().max())
    for block in blocks.values():
        slack = 2e-5 * (1 + expected.abs())
        assert ((block.delta - expected).abs() <= block.half_width + block.rounding + slack).all()


@pytest.mark.parametrize("config", CASES)
def test_readout_rebuilds_the_logits_and_attention_is_seen(config: Any) -> None:
    model = random_model(config)
    evaluation, positions = text()
    captured = capture(model, evaluation, positions, attention=True)
    logits = model(torch.from_numpy(evaluation.windows.astype(np.int64))).logits[positions.window, positions.query]
    readout = captured.anatomy.readout
    r = captured.residual
    x = r - r.mean(1, keepdim=True) if readout.centred else r
    normed = readout.gain * x / (x.square().mean(1, keepdim=True) + readout.epsilon).sqrt() + readout.shift
    ours = readout.logits(normed)
    before_cap = torch.nn.functional.linear(normed, readout.unembedding, readout.bias)
    assert (readout.cap == 5.0) == bool((ours - before_cap).abs().max() > 1)
    assert (readout.bias is not None) == (config.model_type in ("phi", "gptj"))
    torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)
    assert captured.attention is not None and captured.attention.shape == (len(positions.flat), 2, 4, 16)
    torch.testing.assert_close(captured.attention.sum(-1), torch.ones(len(positions.flat), 2, 4))


@pytest.mark.parametrize("config", CASES)
def test_input_rows_give_the_activations_and_blocks_are_the_last_two(config: Any) -> None:
    model = random_model(config)
    parts = anatomy(model)
    final = parts.blocks[-1].module
    first = [m for m in final.modules() if getattr(m, "weight", None) is not None and any(
        m.weight.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
        for rows in parts.input_rows.values())]  # fmt: skip
    act = next(getattr(m, name) for m in final.modules() for name in ACTIVATIONS if hasattr(m, name))
    seen: dict[str, Tensor] = {}
    handles = [
        first[0].register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0])),
        parts.mlp_output.register_forward_pre_hook(lambda module, inputs: seen.update(a=inputs[0])),
        *(b.attention_output.register_forward_pre_hook(lambda m, i, k=k: seen.update({f"z{k}": i[0]}))
          for k, b in enumerate(parts.blocks)),
    ]  # fmt: skip
    model(torch.arange(3, 19)[None])
    for handle in handles:
        handle.remove()
    x = seen["x"]
    if set(parts.input_rows) == {"gate", "up"}:
        expected = act(x @ parts.input_rows["gate"].T) * (x @ parts.input_rows["up"].T)
    else:
        expected = act(torch.nn.functional.linear(x, parts.input_rows["in"], first[0].bias))
    assert all(rows.shape == parts.output_rows.shape for rows in parts.input_rows.values())
    assert parts.output_rows.shape == (96 if config.model_type == "bloom" else 40, 24)
    torch.testing.assert_close(seen["a"], expected)
    assert len(parts.blocks) == 2 and parts.every_block[-2:] == parts.blocks
    for k, block in enumerate(parts.blocks):
        assert block.attention in block.module.modules() and block.attention_output in block.attention.modules()
        size = 10 if "gemma" in config.model_type else 6
        assert (block.heads, block.head_size) == (4, size) and seen[f"z{k}"].shape[-1] == 4 * size
    assert parts.mlp_output in parts.blocks[-1].module.modules()


def test_every_listed_family_is_tested_and_others_are_refused() -> None:
    assert set(CONFIGS) == set(FAMILIES)
    for name in ("falcon", "gemma3", "None"):
        with pytest.raises(InputError, match=f"'{name}', which is not supported"):
            check_family(name, "here")


EXPERTS = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe", "dbrx", "phimoe")
MIXERS = ("mamba", "mamba2", "falcon_mamba", "jamba", "zamba", "zamba2", "bamba", "falcon_h1", "nemotron_h", "rwkv")
MIXERS += ("recurrent_gemma", "lfm2", "qwen3_next", "olmo_hybrid", "xlstm")


@pytest.mark.parametrize(
    ("name", "words"),
    [*((n, "a mixture of experts") for n in EXPERTS), *((n, "no transformer throughout") for n in MIXERS)],
)
def test_experts_and_hybrids_are_refused_by_name(name: str, words: str) -> None:
    assert name in transformers.CONFIG_MAPPING
    with pytest.raises(InputError, match=f"'{name}', {words}.*; give a dense model"):
        check_family(name, "here")


def test_no_dense_family_is_taken_for_another_kind() -> None:
    dense = ("gemma3", "falcon", "mpt", "cohere")
    assert not [name for name in (*FAMILIES, *dense) if why_not_dense(name)]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "llama", "final_logit_softcapping": 30.0},
            "its logits are capped .*_softcapping 30.0.*take the",
        ),
        ({"model_type": "gemma", "attn_logit_softcapping": 50.0}, "its attention's scores are capped"),
        (
            {"model_type": "gemma2", "final_logit_softcapping": 0.0},
            "has final_logit_softcapping 0.0 .*above 0, or null",
        ),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": "50"}, "has attn_logit_softcapping 50 "),
        (transformers.Gemma3TextConfig(use_bidirectional_attention=True), "attends to later tokens"),
        (transformers.OPTConfig(hidden_size=1024, word_embed_proj_dim=512), "as OPT-350m does not; give another size"),
        (transformers.OPTConfig(do_layer_norm_before=False), "does not end in a norm"),
        (transformers.OPTConfig(_remove_final_layer_norm=True), "does not end in a norm"),
        (transformers.BloomConfig(apply_residual_connection_post_layernorm=True), "adds to a normalised stream"),
        (transformers.BloomConfig(slow_but_exact=True, pretraining_tp=4), "set slow_but_exact to false"),
    ],
)
def test_settings_that_leave_no_closed_form_are_refused(config: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"^here {words}|^here .*{words}"):
        check_config(config if isinstance(config, dict) else config.to_dict(), "here")


def test_code_that_a_repository_brings_is_named() -> None:
    with pytest.raises(InputError, match="'pico_decoder', whose code its repository brings; rtdyn runs none of it"):
        check_config({"model_type": "pico_decoder", "auto_map": {"AutoConfig": "pico_decoder.PicoConfig"}}, "here")


def test_windows_longer_than_the_attention_reaches_are_refused() -> None:
    evaluation, positions = text()
    sliding = {"num_key_value_heads": 2, "sliding_window": 15, **GATED}
    with pytest.raises(InputError, match=r"window is of 16 tokens.* reaches 15; give --window 15 or less"):
        capture(random_model(transformers.MistralConfig(**sliding)), evaluation, positions)
    mixed = transformers.Qwen2Config(**sliding, use_sliding_window=True, max_window_layers=1)
    assert "sliding_attention" in mixed.layer_types
    with pytest.raises(InputError, match="reaches 15"):
        capture(random_model(mixed), evaluation, positions)
    assert capture(random_model(transformers.Qwen2Config(**sliding)), evaluation, positions).residual.shape[1] == 24


@pytest.mark.parametrize("whole", [True, False], ids=["with head", "without head"])
@pytest.mark.parametrize("config", CASES)
def test_the_final_mlp_is_found_in_the_files_as_in_the_model(config: Any, whole: bool, tmp_path: Path) -> None:
    model = random_model(config)
    (model if whole else model.base_model).save_pretrained(tmp_path, max_shard_size="8KB")
    mlp, inputs, output = read_final_mlp(tmp_path)
    parts = anatomy(model)
    assert mlp.layer == parts.layer
    assert torch.equal(output, parts.output_rows)
    assert (
        len(set(mlp_tensors(mlp))) == len(mlp_tensors(mlp)) == (2 if config.model_type == "phi3" else 1 + len(inputs))
    )
    assert inputs.keys() == parts.input_rows.keys()
    assert all(torch.equal(rows, parts.input_rows[name]) for name, rows in inputs.items())


def test_files_without_the_final_mlp_are_refused(tmp_path: Path) -> None:
    random_model(CONFIGS["gpt2"][0]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 9}))
    with pytest.raises(InputError, match=r"holds no transformer\.h\.8\.mlp\.c_fc\.weight"):
        read_final_mlp(tmp_path)
