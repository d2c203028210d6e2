"""Which windows of a corpus are measured."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdyn.text.draw import ONE_EACH, REACH, DrawnWindow, draw_windows, stretch_ends
from rtdyn.text.tokenizer import Tokenizer

EOS = 2


class Characters:
    """A token for each character."""

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        self.encoded += sum(map(len, texts))
        return {"input_ids": [[ord(c) for c in text] for text in texts]}


def tokenizer() -> Tokenizer:
    return Tokenizer(Characters(), 0x110000, 1, EOS)


def texts_of(lengths: list[int]) -> list[str]:
    """Documents whose characters are all different."""
    starts = 0x10000 + np.concatenate([[0], np.cumsum(lengths)])
    return ["".join(map(chr, range(start, start + n))) for start, n in zip(starts.tolist(), lengths, strict=False)]


def windows(lengths: list[int], body: int, seed: int = 0) -> list[DrawnWindow]:
    return list(draw_windows([texts_of(lengths)], tokenizer(), body, EOS, np.random.default_rng(seed)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.integers(5, 20), st.integers(0, 99))
def test_no_token_is_measured_twice_and_little_is_lost(lengths: list[int], body: int, seed: int) -> None:
    drawn = windows(lengths, body, seed)
    tokens = np.concatenate([w.ids for w in drawn]) if drawn else np.array([])
    tokens = tokens[tokens != EOS]
    assert len(np.unique(tokens)) == len(tokens)
    assert all(len(w.ids) == body for w in drawn)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    for window in drawn:
        first = int(window.ids[0]) - 0x10000
        assert (owner[first], place[first]) == (window.document, window.place)
    # a joined window's surplus is dropped, at most a document shorter than a window; so is the last, if not full
    joined = sum(EOS in w.ids for w in drawn) + 1
    assert sum(lengths) - len(tokens) <= joined * 2 * body


def test_every_place_of_the_corpus_has_an_equal_chance() -> None:
    lengths, body = [40] * 40 + [400] * 8, 10
    counts = np.zeros(2)
    for seed in range(200):
        for window in islice(draw_windows([texts_of(lengths)], tokenizer(), body, EOS, np.random.default_rng(seed)), 6):
            counts[int(window.document >= 40)] += 1
    # two thirds of the text is in the long documents; 1,200 windows leave a standard error of 0.014
    assert abs(counts[1] / counts.sum() - 2 / 3) < 0.05


def test_a_long_text_is_measured_all_over_and_encoded_only_where_it_is() -> None:
    one = tokenizer()
    text = "word " * 200_000
    drawn = list(islice(draw_windows([[text]], one, 50, EOS, np.random.default_rng(0)), 40))
    places = np.sort([w.place for w in drawn])
    assert places[0] < 0.15 * len(text) and places[-1] > 0.85 * len(text)
    assert np.diff(places).max() < 0.25 * len(text)
    assert one.backend.encoded < 0.1 * len(text)


def test_documents_give_one_window_each_before_any_gives_a_second() -> None:
    drawn = windows([300] * 400, 10)
    first = [w.document for w in drawn[: int(400 * ONE_EACH)]]
    assert len(set(first)) == len(first) == 20
    assert len({w.document for w in drawn}) == 400


def test_blocks_give_their_first_windows_in_turn_and_all_of_them_in_the_end() -> None:
    blocks = [texts_of([100] * 8)] * 3
    drawn = list(draw_windows(blocks, tokenizer(), 10, EOS, np.random.default_rng(1)))
    assert [w.document // 8 for w in drawn[:12]] == [0] * 4 + [1] * 4 + [2] * 4
    assert len(drawn) == 240


def test_short_documents_are_joined_by_eos_and_none_lies_in_two_windows() -> None:
    drawn = windows([4] * 30, 10)
    assert all((w.ids == EOS).sum() == 2 for w in drawn)
    assert len(drawn) == 15  # two documents fill a window


def test_stretches_are_equal_and_end_before_spaces() -> None:
    text = "seven77 " * 5000
    ends = stretch_ends(text, 1000)
    lengths = np.diff([0, *ends])
    assert ends[-1] == len(text) and lengths.max() <= 1000 + REACH and lengths.min() > 900
    assert all(text[end] == " " for end in ends[:-1])
    assert stretch_ends("", 10) == [0] and stretch_ends("x" * 25, 10)[-1] == 25
