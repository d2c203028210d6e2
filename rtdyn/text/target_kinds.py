"""What rare targets are as pieces of text: byte fragments, parts of words, or whole words.

A piece is read as the tokenizer's decoder reads it. Of a byte-level BPE a piece is bytes: those that are no UTF-8 by
themselves are a byte fragment. Of SentencePiece's tokenizers `<0x80>` to `<0xFF>` are such, and `▁` is a space. Of
WordPiece `##` goes on with a word, and any other piece stands behind a space.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtdyn.text.positions import MeasuredPositions
from rtdyn.text.tokenizer import Tokenizer
from rtdyn.text.windows import EvaluationSet
from rtdyn.undefined import Undefined

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_PLAIN = (*range(33, 127), *range(161, 173), *range(174, 256))
"""Bytes that byte-level BPE writes as the character of the same number; the others take those from 256 on."""
_BYTE_OF = {chr(byte): byte for byte in _PLAIN} | {
    chr(256 + n): byte for n, byte in enumerate(sorted(set(range(256)) - set(_PLAIN)))
}


@dataclass(frozen=True)
class TargetKinds:
    """What the tokens are that decide the class of its measured positions."""

    types: int
    """Distinct ones."""
    byte_fragments: float | Undefined
    """Share of the positions whose token is bytes that are no text by themselves."""
    no_whole_words: float | Undefined
    """Share of those whose token is no whole word, among positions whose next token lies in the same window."""


def target_kinds(
    text: EvaluationSet, positions: MeasuredPositions, class_by: str, tokenizer: Tokenizer
) -> dict[str, TargetKinds]:
    """By class. class_by: `target` or `query`, whose token decides the class.

    A token is a whole word if it is of letters, marks and digits alone, but for white space around them. Neither the
    token before may go over into it nor it into the next. Two neighbours go over into each other if the first's last
    and the second's first character are both letters, marks or digits. A byte fragment is no whole word, and counts as
    a letter beside one. Letters, marks and digits are what Unicode calls so (categories L, M and N).
    """
    column = positions.query + (class_by == "target")
    ids = text.windows[positions.window, column]
    pieces = piece_texts(tokenizer, np.unique(text.windows).tolist())
    kinds = {}
    for c in positions.classes:
        member = positions.members(c.name)
        types = len(np.unique(ids[member]))
        if isinstance(pieces, Undefined):
            kinds[c.name] = TargetKinds(types, pieces, pieces)
            continue
        own = [(int(w), int(k)) for w, k in zip(positions.window[member], column[member], strict=True)]
        fragments = [pieces[int(text.windows[place])] is None for place in own]
        inside = [(w, k) for w, k in own if k + 1 < text.windows.shape[1]]
        broken = [not _is_whole(*(pieces[int(i)] for i in text.windows[w, k - 1 : k + 2])) for w, k in inside]
        kinds[c.name] = TargetKinds(
            types,
            float(np.mean(fragments)) if own else Undefined("the class has no position"),
            float(np.mean(broken)) if inside else Undefined("no position has its next token in the same window"),
        )
    return kinds


def _is_whole(before: str | None, piece: str | None, after: str | None) -> bool:
    """Whether a piece is a whole word between its neighbours, None for a byte fragment."""
    if piece is None or not piece.strip() or not all(map(_is_letter, piece.strip())):
        return False
    joins_before = _is_letter(piece[0]) and (before is None or _is_letter(before[-1:]))
    joins_after = _is_letter(piece[-1]) and (after is None or _is_letter(after[:1]))
    return not joins_before and not joins_after


def _is_letter(character: str) -> bool:
    return bool(character) and unicodedata.category(character)[0] in "LMN"


def piece_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> Mapping[int, str | None] | Undefined:
    """The text of each id's piece, None of a byte fragment; or why the tokenizer's pieces cannot be read."""
    backend = getattr(tokenizer.backend, "backend_tokenizer", None)
    if backend is None:
        return Undefined("the tokenizer is not one of the library tokenizers, whose pieces can be read")
    content = json.loads(backend.to_str())
    added = {token["id"]: token["content"] for token in content["added_tokens"]}
    types = [*_types(content["decoder"]), *_types(content["pre_tokenizer"])]
    kind = next((kind for kind in _READERS if kind in types), None)
    if kind is None:
        return Undefined(f"the tokenizer's decoder is none of {', '.join(_READERS)}, by which pieces are read")
    read = _READERS[kind]
    # an id that the model's configuration alone names, as of BOS, has no piece
    return {i: added[i] if i in added else read(backend.id_to_token(i) or "") for i in ids}


def _types(part: Any) -> Iterator[str]:
    """The types of a tokenizer's part and of what it is a sequence of."""
    if isinstance(part, dict):
        yield part["type"]
        for member in part.get("decoders") or part.get("pretokenizers") or ():
            yield from _types(member)


def _of_bytes(piece: str) -> str | None:
    return _text(bytes(_BYTE_OF[character] for character in piece))


def _of_sentencepiece(piece: str) -> str | None:
    byte = _BYTE.fullmatch(piece)
    return piece.replace("▁", " ") if byte is None else _text(bytes.fromhex(byte[1]))


def _of_wordpiece(piece: str) -> str:
    return piece[2:] if piece.startswith("##") else f" {piece}"


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


_READERS: Mapping[str, Callable[[str], str | None]] = {
    "ByteLevel": _of_bytes,
    "ByteFallback": _of_sentencepiece,
    "Metaspace": _of_sentencepiece,
    "WordPiece": _of_wordpiece,
}
"""By the type of the decoder, how a piece is read."""
