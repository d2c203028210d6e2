"""Documents, windows, and which positions count."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from rtdyn.errors import InputError
from rtdyn.text import king_james
from rtdyn.text.documents import first_of, read_documents
from rtdyn.text.draw import DrawnWindow
from rtdyn.text.tokenizer import Tokenizer, load_tokenizer
from rtdyn.text.windows import pack

BOS, EOS = 1, 2


def never(tokens: int, window: np.ndarray, kept: np.ndarray) -> bool:
    return False


def drawn(*windows: tuple[int, int, list[int]]) -> list[DrawnWindow]:
    return [DrawnWindow(document, place, np.array(ids)) for document, place, ids in windows]


def test_windows_begin_with_bos_and_follow_the_corpus() -> None:
    pieces = drawn((1, 40, [200, 201, 202, 203, 204]), (1, 0, [100, 101, 102, 103, 104]), (0, 9, [5, 6, 7, 8, 9]))
    found = pack(pieces, 6, BOS, EOS, never)
    assert found.windows.tolist() == [[1, 5, 6, 7, 8, 9], [1, 100, 101, 102, 103, 104], [1, 200, 201, 202, 203, 204]]
    assert found.documents.tolist() == [0, 1, 1]
    assert found.targets.tolist()[0] == [5, 6, 7, 8, 9, 0]
    assert pack(pieces, 5, None, EOS, never).windows.shape == (3, 5)
    with pytest.raises(InputError, match="shorter than one window"):
        pack([], 6, BOS, EOS, never)


def test_dropped_positions() -> None:
    packed_set = pack(drawn((0, 0, [100, 101, 102, 103, 104, 2, 200, 201, 202])), 10, BOS, EOS, never)
    # queries 0-2, the last, the query whose target is EOS (5), and EOS itself (6) are dropped
    assert np.flatnonzero(packed_set.kept[0]).tolist() == [3, 4, 7, 8]


def test_windows_stop_when_there_is_enough() -> None:
    seen: list[int] = []

    def after_two(tokens: int, window: np.ndarray, kept: np.ndarray) -> bool:
        seen.append(tokens)
        return tokens >= 20

    pieces = iter(drawn(*((0, i, list(range(3, 12))) for i in range(9))))
    assert len(pack(pieces, 10, BOS, EOS, after_two).windows) == 2 and len(list(pieces)) == 7
    assert seen == [10, 20]


def test_the_digest_depends_on_every_token() -> None:
    one, same, other = (pack(drawn((0, 0, [3, 4, 5, last])), 5, BOS, EOS, never).sha256 for last in (6, 6, 7))
    assert one == same != other


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(tiny_folder)


@pytest.mark.slow
def test_training_and_held_out_chapters_share_nothing() -> None:
    whole, held_out, training = king_james.chapters(), king_james.held_out_chapters(), king_james.training_chapters()
    assert len(whole) == 1189 and len(held_out) == 237 and len(held_out) + len(training) == 1189
    assert not set(held_out) & set(training)
    assert held_out[0].startswith("This is the book of the generations of Adam.")
    assert not any("[" in text for text in whole)


def test_texts_are_read_from_all_forms(tmp_path: Path) -> None:
    texts = ["first text", "second\ntext"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t, "n": 1}) for t in texts) + "\n\n")
    pl.DataFrame({"text": texts}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"body": texts}).write_parquet(tmp_path / "b.parquet")
    (tmp_path / "a.txt").write_text(texts[0])
    assert read_documents(str(tmp_path / "a.jsonl")).texts == tuple(texts)
    assert read_documents(str(tmp_path / "a.parquet")).texts == tuple(texts)
    assert read_documents(str(tmp_path / "b.parquet"), "body").texts == tuple(texts)
    assert read_documents(str(tmp_path / "a.txt")).texts == (texts[0],)
    digests = {read_documents(str(tmp_path / n)).sha256 for n in ("a.jsonl", "a.parquet")}
    assert len(digests) == 1 and read_documents(str(tmp_path / "a.txt")).sha256 not in digests


def test_the_first_documents_are_those_of_a_file_that_holds_no_more(tmp_path: Path) -> None:
    texts = ["one", "two", "three"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts[:2]))
    whole, held = (read_documents(str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl"))
    first = first_of(whole, 2)
    assert (first.texts, first.sha256) == (held.texts, held.sha256) and first.name.endswith("its first 2 documents")
    assert first_of(whole, 3) == first_of(whole, 9) == first_of(whole, None) == whole


TEXTS = ["first é text", "second\ntext"]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(TEXTS).dictionary_encode(),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array([t.encode() for t in TEXTS], pa.binary()),
        pa.array([t.encode() for t in TEXTS], pa.large_binary()),
        pl.Series(TEXTS, dtype=pl.Categorical),
        pl.Series(TEXTS, dtype=pl.Enum(TEXTS)),
        pl.Series(["\ufeff" + TEXTS[0], TEXTS[1]]),
        pl.Series([None, *TEXTS, " "]),
    ],
    ids=lambda array: str(getattr(array, "type", getattr(array, "dtype", None))),
)
def test_every_type_of_text_column_is_read(array: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    if isinstance(array, pl.Series):
        pl.DataFrame({"text": array}).write_parquet(file)
    else:
        pyarrow.parquet.write_table(pa.table({"text": array}), file)
    documents = read_documents(str(file))
    assert documents.texts == tuple(TEXTS)
    assert documents.passed_over == len(array) - 2


def test_columns_that_hold_no_text_are_refused(tmp_path: Path) -> None:
    for array, words in (
        (pa.array([b"caf\xe9"]), "bytes that are not UTF-8"),
        (pa.array([1, 2]).dictionary_encode(), "no text column"),
        (pa.array([{"a": "b"}]), "no text column"),
    ):
        pyarrow.parquet.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=words):
            read_documents(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_line_ends_of_windows_change_nothing(mark: str, end: str, suffix: str, tmp_path: Path) -> None:
    lines = ['{"text": "one"}', '{"text": "two"}', ""]
    file = tmp_path / f"a.{suffix}"
    file.write_bytes((mark + end.join(lines)).encode())
    assert read_documents(str(file)).texts == (("one", "two") if suffix == "jsonl" else ("\n".join(lines),))


def test_rows_of_json_without_text_are_passed_over_and_counted(tmp_path: Path) -> None:
    rows = ['{"text": "one"}', '{"text": null}', '{"other": 1}', '\ufeff{"text": "two"}', '{"text": " "}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    documents = read_documents(str(tmp_path / "a.jsonl"))
    assert (documents.texts, documents.passed_over) == (("one", "two"), 3)


def test_other_columns_of_json_may_hold_any_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "id": ' + "9" * 5000 + "}")
    assert read_documents(str(tmp_path / "a.jsonl")).texts == ("one",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "holds no text"),
        ("blank.txt", b" \n\n", "holds no text"),
        ("binary.txt", b"abc\x00def", "looks binary"),
        ("latin.txt", "caf\xe9".encode("latin-1"), r"not UTF-8 text \(byte 3\)"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("field.jsonl", b'{"body": "a"}\n', "--text-field"),
        ("nulls.jsonl", b'{"text": null}\n', "holds no text"),
        ("mark.txt", "\ufeff".encode(), "holds no text"),
        ("number.jsonl", b'{"text": "a"}\n{"text": 1}', "line 2: no text under 'text'"),
        ("deep.jsonl", b'{"text": "a", "b": ' + b"[" * 200000 + b"]" * 200000 + b"}", "line 1: nested too deeply"),
        ("list.jsonl", b'{"text": "a"}\n[1]\n', "--text-field"),
        ("half.JSONL", b'{"text": "a\\ud800"}\n', "line 1: holds half of a surrogate"),
        ("rows.json", b'[{"text": "a"}]', "begins a JSON array; write its rows as lines of JSON"),
        ("rows.jsonl", b'\xef\xbb\xbf\n[\n{"text": "a"}]', "begins a JSON array"),
        ("pretty.json", b'{\n "text": "a"\n}', "line 1: not JSON"),
        ("bad.parquet", b"PAR1....", "not a readable Parquet"),
    ],
)
def test_unusable_texts_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_documents(str(tmp_path / name))


def test_missing_and_misnamed_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        read_documents(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="a folder"):
        read_documents(str(tmp_path))
    pl.DataFrame({"text": [1, 2]}).write_parquet(tmp_path / "n.parquet")
    with pytest.raises(InputError, match="no text column"):
        read_documents(str(tmp_path / "n.parquet"))


@pytest.mark.slow
def test_byte_order_marks_of_a_tokenizers_files_are_dropped(tiny_folder: Path, tmp_path: Path) -> None:
    for file in (*tiny_folder.glob("tokenizer*.json"), tiny_folder / "step0" / "config.json"):
        (tmp_path / file.name).write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    ours, plain = load_tokenizer(tmp_path), load_tokenizer(tiny_folder)
    assert (ours.size, ours.bos, ours.eos) == (plain.size, plain.bos, plain.eos)
    text = "In the beginning God created the heaven"
    assert ours.encode([text])[0].tolist() == plain.encode([text])[0].tolist()


def test_a_missing_or_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


TRUNCATION = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}
PADDING = {"strategy": {"Fixed": 3000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 5, "pad_type_id": 0,
           "pad_token": "$"}  # fmt: skip


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"model": {"dropout": 0.5}}, r"the tokenizer in .* drops merges at random \(dropout 0\.5\)"),
        ({"model": {"dropout": 1.0}}, r"dropout 1\)"),
        ({"model": {"dropout": 0.0}}, None),
        ({"truncation": TRUNCATION}, None),
        ({"padding": PADDING}, None),
        ({"truncation": TRUNCATION, "padding": PADDING, "model": {"dropout": 0.2}}, r"dropout 0\.2\)"),
    ],
)
def test_what_is_saved_in_a_tokenizer_neither_draws_nor_cuts_nor_pads(
    tokenizer: Tokenizer, tiny_folder: Path, tmp_path: Path, saved: dict[str, Any], said: str | None
) -> None:
    plain = json.loads((tiny_folder / "tokenizer.json").read_text(encoding="utf-8"))
    changed = {**plain, **saved, "model": {**plain["model"], **saved.get("model", {})}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    shutil.copy(tiny_folder / "tokenizer_config.json", tmp_path)
    texts = list(king_james.chapters()[:3])
    wanted = tokenizer.encode(texts)
    assert all(64 < len(ids) < 3000 for ids in wanted)
    for _ in range(2):
        heard: list[str] = []
        loaded = load_tokenizer(tmp_path, heard.append)
        for _ in range(2):
            assert all(map(np.array_equal, loaded.encode(texts), wanted))
        assert len(heard) == (said is not None) and (said is None or re.search(said, heard[0]))
