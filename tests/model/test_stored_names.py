"""Names under a wrapper's prefix, and those that only look so."""

from __future__ import annotations

import pytest

from rtdyn.errors import InputError
from rtdyn.model.stored_names import part_of, plain_names, stored_name, wrapping


@pytest.mark.parametrize(
    ("base", "names", "prefix"),
    [
        ("model", ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"], ""),
        ("model", ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"], ""),
        ("model", ["model.model.layers.0.mlp.up_proj.weight", "model.lm_head.weight"], "model."),
        ("model", ["layers.0.mlp.up_proj.weight", "embed_tokens.weight"], ""),
        ("model", ["base_model.model.model.norm.weight", "base_model.model.lm_head.weight"], "base_model.model."),
        ("gpt_neox", ["model.layers.0.attention.dense.bias", "model.embed_in.weight"], "model."),
        ("gpt_neox", ["model.gpt_neox.layers.0.attention.dense.bias", "model.embed_out.weight"], "model."),
        ("transformer", ["_orig_mod.module.transformer.h.0.ln_1.bias"], "_orig_mod.module."),
        ("transformer", ["module.model._orig_mod.h.0.ln_1.bias"], "module.model._orig_mod."),
        ("transformer", ["module.transformer.h.0.ln_1.bias", "transformer.wte.weight"], ""),
        ("transformer", ["module.transformer.h.0.ln_1.bias", "_orig_mod.transformer.wte.weight"], ""),
        ("transformer", ["student.transformer.h.0.ln_1.bias"], ""),
        ("transformer", ["module.something.weight"], ""),
        ("transformer", [], ""),
        ("transformer", ["h.0.ln_1.bias", "word_embeddings.weight", "word_embeddings_layernorm.bias"], ""),
        ("model", ["decoder.layers.0.fc1.weight", "decoder.embed_tokens.weight"], ""),
        ("model", ["model.model.decoder.layers.0.fc1.weight", "model.lm_head.weight"], "model."),
        ("model", ["layers.0.mlp.fc1.weight", "final_layernorm.weight"], ""),
    ],
)
def test_what_all_names_have_before_the_familys_own(base: str, names: list[str], prefix: str) -> None:
    assert wrapping(names, base) == prefix


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.model."])
@pytest.mark.parametrize("base", ["transformer.", ""])
def test_a_tensor_is_found_under_the_prefix(prefix: str, base: str) -> None:
    names = {f"{prefix}{base}h.0.mlp.c_fc.weight", f"{prefix}{base}wte.weight"}
    assert stored_name("transformer.h.0.mlp.c_fc.weight", names, "here") == f"{prefix}{base}h.0.mlp.c_fc.weight"


def test_a_tensor_that_only_another_prefix_has_is_not_found() -> None:
    names = {"module.transformer.h.0.mlp.c_fc.weight", "transformer.wte.weight"}
    with pytest.raises(InputError, match=r"here holds no transformer\.h\.0\.mlp\.c_fc\.weight"):
        stored_name("transformer.h.0.mlp.c_fc.weight", names, "here")


@pytest.mark.parametrize(
    ("base", "name", "part"),
    [
        ("model", "model.decoder.layers.3.fc1.weight", "layer 3"),
        ("model", "model.decoder.embed_tokens.weight", "embedding"),
        ("model", "model.decoder.final_layer_norm.weight", "final_layer_norm"),
        ("transformer", "transformer.word_embeddings.weight", "embedding"),
        ("transformer", "h.11.self_attention.dense.weight", "layer 11"),
        ("gpt_neox", "embed_out.weight", "unembedding"),
    ],
)
def test_a_tensor_belongs_to_a_part(base: str, name: str, part: str) -> None:
    assert part_of(plain_names([name], base)[name]) == part
