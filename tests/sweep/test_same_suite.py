"""Steps belong to a suite by what their configuration and tokenizer do, however these are written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback.place import TINY
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig

from rtdyn.errors import InputError
from rtdyn.sweep.same_suite import check_same_shape
from rtdyn.text.tokenizer import tokenizer_digest

PLAIN = json.loads((TINY / "tokenizer.json").read_text())
Change = Callable[[dict[str, Any]], dict[str, Any]]


def model(**settings: Any) -> Change:
    return lambda tokenizer: {**tokenizer, "model": {**tokenizer["model"], **settings}}


def byte_level(**settings: Any) -> dict[str, Any]:
    return {**PLAIN["pre_tokenizer"], **settings}


WITHOUT_DEFAULTS = {"type": "BPE", "vocab": PLAIN["model"]["vocab"], "merges": PLAIN["model"]["merges"]}
TRUNCATION = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}
SAME: dict[str, Change] = {
    "the other order of keys": lambda t: dict(reversed(t.items())),
    "merges as texts": model(merges=[" ".join(pair) for pair in PLAIN["model"]["merges"]]),
    "the vocabulary in another order": model(vocab=dict(reversed(PLAIN["model"]["vocab"].items()))),
    "defaults left out": lambda t: {**t, "model": WITHOUT_DEFAULTS},
    "an empty prefix": model(continuing_subword_prefix="", end_of_word_suffix=""),
    "dropout, which is switched off": model(dropout=0.1),
    "truncation": lambda t: {**t, "truncation": TRUNCATION},
    "no decoder": lambda t: {**t, "decoder": None},
    "a sequence of one": lambda t: {**t, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [byte_level()]}},
    "no normalizers": lambda t: {**t, "normalizer": {"type": "Sequence", "normalizers": []}},
    "offsets": lambda t: {**t, "pre_tokenizer": byte_level(trim_offsets=False)},
}
OTHER: dict[str, Change] = {
    "a merge less": model(merges=PLAIN["model"]["merges"][:-1]),
    "merges in another order": model(merges=PLAIN["model"]["merges"][::-1]),
    "two ids swapped": model(vocab={**PLAIN["model"]["vocab"], "a": PLAIN["model"]["vocab"]["b"], "b": 66}),
    "a normalizer": lambda t: {**t, "normalizer": {"type": "Lowercase"}},
    "a space before all": lambda t: {**t, "pre_tokenizer": byte_level(add_prefix_space=True)},
    "an added token": lambda t: {**t, "added_tokens": [*t["added_tokens"], {**t["added_tokens"][0], "content": "the"}]},
}


def digest(folder: Path, change: Change, indent: int | None = None) -> str | None:
    (folder / "tokenizer.json").write_text(json.dumps(change(PLAIN), indent=indent), encoding="utf-8-sig")
    return tokenizer_digest(folder)


@pytest.mark.parametrize("kind", SAME)
def test_a_tokenizer_written_anew_is_the_same(tmp_path: Path, kind: str) -> None:
    assert digest(tmp_path, SAME[kind], indent=2) == tokenizer_digest(TINY)


@pytest.mark.parametrize("kind", OTHER)
def test_a_tokenizer_that_cuts_otherwise_is_another(tmp_path: Path, kind: str) -> None:
    assert digest(tmp_path, OTHER[kind]) != tokenizer_digest(TINY)


def test_a_folder_without_a_tokenizer_has_none_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    assert tokenizer_digest(tmp_path) is None
    for text in ("{}", "[" * 3000, "", "\x00"):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(InputError, match=r"tokenizer\.json cannot be loaded"):
            tokenizer_digest(tmp_path)


GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 64}
NEOX = {
    "model_type": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "vocab_size": 50, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA = {**NEOX, "model_type": "llama"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (GPT2, {**GPT2, "n_inner": None}),
        (GPT2, {**GPT2, "n_inner": 128}),
        (GPT2, {"model_type": "gpt2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "vocab_size": 50, "max_position_embeddings": 64}),
        (GPT2, GPT2Config(**{k: v for k, v in GPT2.items() if k != "model_type"}).to_dict()),
        (NEOX, GPTNeoXConfig(**{k: v for k, v in NEOX.items() if k != "model_type"}).to_dict()),
        (LLAMA, LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"}).to_dict()),
        (NEOX, {**dict(reversed(NEOX.items())), "transformers_version": "4.0.0", "torch_dtype": "float16"}),
    ],
)  # fmt: skip
def test_a_configuration_written_anew_is_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    check_same_shape(one, other, 7)
    check_same_shape(other, one, 7)


@pytest.mark.parametrize(
    "change",
    [{"n_inner": 64}, {"n_head": 4}, {"n_layer": 3}, {"vocab_size": 51}, {"n_embd": 64}, {"model_type": "gpt_neox"},
     {"n_head": 3}],
)  # fmt: skip
def test_another_shape_is_refused_by_the_setting(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"step 7 is of another shape .*: {next(iter(change))} "):
        check_same_shape({**GPT2, **change}, GPT2, 7)
