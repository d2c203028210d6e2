"""Byte fragments and words among targets, by tokenizers of each kind that can be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tokenizers
from conftest import LATE
from tokenizers import decoders, models, pre_tokenizers

from rtdyn.checkpoints.locate import find_tokenizer
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.positions import ClassPositions, MeasuredPositions
from rtdyn.text.target_kinds import piece_texts, target_kinds
from rtdyn.text.tokenizer import Tokenizer, load_tokenizer
from rtdyn.text.windows import EvaluationSet
from rtdyn.undefined import Undefined


@dataclass
class Backend:
    """What is asked of transformers' tokenizer."""

    backend_tokenizer: Any


def made(model: Any, decoder: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """A tokenizer of the library, of which only the way back to text counts."""
    built = tokenizers.Tokenizer(model)
    if decoder is not None:
        built.decoder = decoder
    if pre_tokenizer is not None:
        built.pre_tokenizer = pre_tokenizer
    return Tokenizer(Backend(built), built.get_vocab_size(), None, None)


def vocabulary(*pieces: str) -> dict[str, int]:
    return {piece: i for i, piece in enumerate(pieces)}


def test_the_pieces_of_a_text_make_the_text_again_and_fragments_are_the_bytes_that_are_none(tiny: SuiteSpec) -> None:
    tokenizer = load_tokenizer(find_tokenizer(tiny, LATE))
    text = "In the naïve beginning 創世記 — God created. \x00\x7f\n\nAnd"
    ids = tokenizer.encode([text])[0].tolist()
    pieces = piece_texts(tokenizer, ids)
    assert not isinstance(pieces, Undefined)
    whole = [pieces[i] for i in ids if pieces[i] is not None]
    assert None in [pieces[i] for i in ids], "the ideographs are bytes to this tokenizer"
    # what is left out is what only several pieces make
    rest = iter(text)
    assert all(character in rest for piece in whole for character in str(piece))
    assert "".join(map(str, whole)).startswith("In the na") and "".join(map(str, whole)).endswith("\n\nAnd")
    every = piece_texts(tokenizer, range(tokenizer.size))
    assert not isinstance(every, Undefined) and 100 < sum(piece is None for piece in every.values()) < 200
    assert [i for i in ids if (pieces[i] is None) != ("\ufffd" in tokenizer.backend.decode([i]))] == []


def test_pieces_are_read_by_the_tokenizers_own_marks() -> None:
    byte_level = made(models.BPE(vocabulary("Ġthe", "ing", "Ċ", "Ã", "Ã©"), []), decoders.ByteLevel())
    assert piece_texts(byte_level, range(5)) == {0: " the", 1: "ing", 2: "\n", 3: None, 4: "é"}
    fallback = made(
        models.BPE(vocabulary("▁the", "<0xE5>", "<0x0A>", "世"), []),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    )
    assert piece_texts(fallback, range(4)) == {0: " the", 1: None, 2: "\n", 3: "世"}
    metaspace = made(models.Unigram([("▁a", -1.0), ("b", -1.0)]), None, pre_tokenizers.Metaspace())
    assert piece_texts(metaspace, range(2)) == {0: " a", 1: "b"}
    wordpiece = made(models.WordPiece(vocabulary("the", "##ing")), decoders.WordPiece())
    assert piece_texts(wordpiece, range(2)) == {0: " the", 1: "ing"}


def test_pieces_of_another_tokenizer_are_not_guessed_at() -> None:
    plain = piece_texts(made(models.WordLevel(vocabulary("a"))), [0])
    assert isinstance(plain, Undefined) and "decoder is none of ByteLevel, ByteFallback" in plain.reason
    slow = piece_texts(Tokenizer(object(), 1, None, None), [0])
    assert isinstance(slow, Undefined) and "library tokenizers" in slow.reason


PIECES = ("Ġthe", "Ġuncon", "scious", "Ġ", "Ã", ".", "Ċ", "God", "Ġ19", "Ġdon", "'t")
TOKENIZER = made(models.BPE(vocabulary(*PIECES), []), decoders.ByteLevel())


def kinds_of(row: list[str], targets: list[int], class_by: str = "target") -> Any:
    """Of positions whose own tokens stand at these places of one window."""
    windows = np.array([[PIECES.index(piece) for piece in row]], dtype=np.int32)
    query = np.array(targets) - (class_by == "target")
    flat = query.astype(np.int64)
    positions = MeasuredPositions(
        flat,
        np.zeros(len(flat), dtype=np.int64),
        query,
        windows[0, np.minimum(query + 1, len(row) - 1)].astype(np.int64),
        (ClassPositions("rare", len(flat), flat),),
    )
    text = EvaluationSet(windows, np.zeros(1, dtype=np.int32), np.ones_like(windows, dtype=bool), "")
    return target_kinds(text, positions, class_by, TOKENIZER)["rare"]


@pytest.mark.parametrize(
    ("row", "place", "whole"),
    [
        (["Ġthe", "Ġthe", "Ġthe"], 1, True),
        (["Ġthe", "Ġuncon", "scious"], 1, False),
        (["Ġuncon", "scious", "."], 1, False),
        (["Ċ", "God", "."], 1, True),
        (["Ġ19", "God", "."], 1, False),
        ([".", "Ġ19", "."], 1, True),
        (["Ġthe", ".", "Ġthe"], 1, False),
        (["Ġthe", "Ġ", "Ġthe"], 1, False),
        (["Ġthe", "Ã", "Ġthe"], 1, False),
        (["Ã", "God", "."], 1, False),
        (["Ã", "Ġthe", "."], 1, True),
        (["Ġthe", "Ġthe", "Ã"], 1, False),
        (["Ġthe", "Ġdon", "'t"], 1, True),
        (["Ġdon", "'t", "Ġthe"], 1, False),
    ],
)
def test_a_whole_word_has_no_letter_of_its_own_beside_it(row: list[str], place: int, whole: bool) -> None:
    assert kinds_of(row, [place]).no_whole_words == float(not whole)


def test_shares_are_of_the_positions_and_types_are_counted_once() -> None:
    row = ["Ġthe", "Ġthe", "Ã", "Ġthe", "Ġuncon", "scious"]
    kinds = kinds_of(row, [1, 2, 3, 4, 5])
    assert kinds.types == 4 and kinds.byte_fragments == pytest.approx(1 / 5)
    # of the four whose next token is known, one stands before a fragment, one is a fragment, and one goes on
    assert kinds.no_whole_words == pytest.approx(3 / 4)
    assert kinds_of(row, [1, 2], "query").byte_fragments == 0.5
    last = kinds_of(row, [5])
    assert isinstance(last.no_whole_words, Undefined) and last.byte_fragments == 0.0
