"""Tokenizers with more entries than the model has logits, as after a pad token was added to the one alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback.place import TINY, copy_step

from rtdyn.errors import InputError
from rtdyn.suites.find import find_suite
from rtdyn.text.evaluation import Evaluation, prepare
from rtdyn.text.king_james import held_out_chapters
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.token_counts import SampledCounts, TokenCounts, read_counts, within

pytestmark = pytest.mark.slow  # seconds in all: tokenizers are made

LOGITS = 2560


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    """The bundled suite's last step, with a tokenizer of three entries more than the model has logits."""
    folder = tmp_path / "larger"
    copy_step(4000, folder)
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"<fill {i}>": i for i in range(len(vocabulary), LOGITS)}
    added = [{**tokenizer["added_tokens"][0], "id": i, "content": f"<extra {i}>"} for i in range(LOGITS, LOGITS + 3)]
    tokenizer["added_tokens"] += added
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name in ("tokenizer_config.json", "token_counts.npy"):
        shutil.copy(TINY / name, folder)
    return folder


def evaluation_of(folder: Path, options: EvaluationOptions, **changes: Any) -> Evaluation:
    corpus = changes.pop("corpus", "king-james-held-out")
    return prepare(
        find_suite(str(folder), {}), 4000, replace(options, corpus=corpus, tokens=4096, min_targets=5, **changes)
    )


@pytest.mark.parametrize("frequencies", [None, "corpus"])
def test_added_tokens_that_are_never_used_change_nothing(
    larger: Path, options: EvaluationOptions, tmp_path: Path, frequencies: str | None
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(larger, plain)
    shutil.copy(TINY / "tokenizer.json", plain)
    found, wanted = (evaluation_of(folder, options, frequencies=frequencies) for folder in (larger, plain))
    assert np.array_equal(found.text.windows, wanted.text.windows)
    assert len(found.counts.counts) <= LOGITS == found.n_logits
    seen = wanted.counts.counts
    assert np.array_equal(found.counts.counts[: len(seen)], seen) and not found.counts.counts[len(seen) :].any()


def test_counts_that_are_as_long_as_the_tokenizer_are_those_without_their_zeros(
    larger: Path, options: EvaluationOptions
) -> None:
    counts = np.load(larger / "token_counts.npy")
    padded = larger / "padded.npy"
    np.save(padded, np.concatenate([counts, np.zeros(LOGITS + 3 - len(counts), counts.dtype)]))
    found = evaluation_of(larger, options, frequencies=str(padded))
    assert len(found.counts.counts) == LOGITS and found.counts.counts.sum() == counts.sum()


@pytest.mark.parametrize("frequencies", [None, "corpus"])
def test_a_text_that_holds_such_a_token_is_refused_by_it(
    larger: Path, options: EvaluationOptions, tmp_path: Path, frequencies: str | None
) -> None:
    text = tmp_path / "text.txt"
    words = " ".join(held_out_chapters()[:20]).split()
    text.write_text(" <extra 2561> ".join(" ".join(words[i : i + 8]) for i in range(0, len(words), 8)))
    with pytest.raises(InputError, match="holds '<extra 2561>', token id 2,561, beyond the model's 2,560 logits"):
        evaluation_of(larger, options, corpus=str(text), frequencies=frequencies)


@pytest.mark.parametrize("frequencies", [None, "corpus"])
def test_such_a_token_in_text_that_is_not_measured_changes_nothing(
    larger: Path, options: EvaluationOptions, tmp_path: Path, frequencies: str | None
) -> None:
    found = []
    for last in ("", "<extra 2561>"):
        text = tmp_path / "text.jsonl"
        text.write_text("".join(json.dumps({"text": t}) + "\n" for t in [*held_out_chapters(), f"Amen.{last}"]))
        found.append(evaluation_of(larger, options, corpus=str(text), frequencies=frequencies))
    plain, strange = found
    assert np.array_equal(strange.text.windows, plain.text.windows)
    assert np.array_equal(strange.counts.counts, plain.counts.counts) and len(plain.counts.counts) <= LOGITS


@pytest.mark.parametrize(("kind", "mend"), [("bos", "give --bos none"), ("eos", "give the tokenizer")])
def test_a_special_token_beyond_the_logits_is_refused(
    larger: Path, options: EvaluationOptions, kind: str, mend: str
) -> None:
    file = larger / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), f"{kind}_token": "<extra 2562>"}))
    with pytest.raises(InputError, match=f"{kind.upper()} token, id 2,562, is beyond the model's 2,560 logits; {mend}"):
        evaluation_of(larger, options)
    if kind == "bos":
        assert evaluation_of(larger, options, bos="none").text.windows.max() < LOGITS


def test_counts_of_ids_beyond_the_logits_are_refused_and_zeros_there_dropped(tmp_path: Path) -> None:
    np.save(tmp_path / "here.npy", [1, 2, 0, 0, 1, 0, 0])
    np.save(tmp_path / "short.npy", [1, 2, 0, 0, 1])
    counted = read_counts(tmp_path / "here.npy")
    with pytest.raises(InputError, match=r"counts of .*here\.npy hold token id 4, and the model has 4 logits"):
        within(counted, 4)
    assert within(counted, 5).counts.tolist() == [1, 2, 0, 0, 1] and within(counted, 7) is counted
    assert within(counted, 5).sha256 == read_counts(tmp_path / "short.npy").sha256
    errors = np.array([1.0, 2, np.inf, np.inf, 3, np.inf, np.inf])
    sampled = TokenCounts(counted.counts, "here", "digest", SampledCounts(errors, {}))
    kept = within(sampled, 5).sampled
    assert kept is not None and np.array_equal(kept.relative_se, errors[:5])
