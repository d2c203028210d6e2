"""The Pile's counts that come with the package: what they are, and whose tokens they count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rtdyn.errors import InputError
from rtdyn.text.pile_counts import KNOWN_TOKENS, pile_counts
from rtdyn.text.token_classes import classify
from rtdyn.text.tokenizer import Tokenizer, load_tokenizer


class Vocabulary:
    def __init__(self, tokens: dict[int, str]) -> None:
        self.tokens = tokens

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.tokens[i] for i in ids]


def of(tokens: Any, size: int = 50277) -> Tokenizer:
    return Tokenizer(Vocabulary(tokens), size, 0, 0)


def test_they_are_all_tokens_of_pythias_training() -> None:
    counts = pile_counts(of(KNOWN_TOKENS))
    assert counts.sha256 == "a9940fb5efbe3a92c9e264484293d3d037b6b4531bd2ae81ab24140999f9be10"
    assert len(counts.counts) == 50277 and (counts.counts == 0).sum() == 214
    # steps, sequences of a step, and each one's tokens with the last one's target
    assert counts.counts.sum() == 143_000 * 1024 * 2049
    assert counts.sampled is None and "300,039,168,000" in counts.source


def test_the_rare_class_by_them_ends_at_the_elbow() -> None:
    classes = classify(pile_counts(of(KNOWN_TOKENS)), ["paper-text"], 50304)
    assert (classes.end_rank, classes.end_reason) == (48277, "elbow")
    assert classes.named("rare").types.sum() == round(0.15 * 48277)


@pytest.mark.parametrize("wrong", sorted(KNOWN_TOKENS))
def test_a_tokenizer_with_any_other_token_is_refused(wrong: int) -> None:
    with pytest.raises(InputError, match="GPT-NeoX-20B tokenizer's tokens, and this model's tokenizer is another"):
        pile_counts(of({**KNOWN_TOKENS, wrong: "other"}))


def test_a_smaller_tokenizer_is_refused_and_one_without_special_tokens_is_not(tiny_folder: Any) -> None:
    with pytest.raises(InputError, match="give --frequencies"):
        pile_counts(load_tokenizer(tiny_folder))
    assert np.array_equal(pile_counts(of(KNOWN_TOKENS, 50254)).counts, pile_counts(of(KNOWN_TOKENS)).counts)
