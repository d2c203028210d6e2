"""Documents that stay in their file: the same as those that are read whole, at a memory that does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hang import HANG

from rtdyn.errors import InputError
from rtdyn.text import documents
from rtdyn.text.documents import Documents, decode, read_documents
from rtdyn.text.stored_text import BLOCK, stored_text

pieces = st.sampled_from(["a", " ", "\n", "\r", "\r\n", "é", "ſ", "語", "𝄞", "\ufeff", "word "])


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=60), st.integers(1, 9), st.data())
def test_a_text_in_its_file_slices_as_the_string_does(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], size: int, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_bytes("".join(parts).encode())
    whole = decode(file.read_bytes())
    held = stored_text(file, lambda at, b: decode(b) if at == 0 else b.decode().replace("\r\n", "\n"), size)
    assert len(held) == len(whole) and "".join(held.blocks()) == whole == held[:]
    for _ in range(5):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, 70), st.integers(0, 70))))
        assert held[start:stop] == whole[start:stop]


def both(file: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Documents | str, Documents | str]:
    """What is read of the file as a small one and as a large one."""

    def read() -> Documents | str:
        try:
            return read_documents(str(file))
        except InputError as error:
            return str(error)

    small = read()
    monkeypatch.setattr(documents, "LARGE", 0)
    return small, read()


ROWS = [{"text": "one row\nof two lines"}, {"text": None}, {"text": "  "}, {"other": 1}, {"text": "\ufeffünf 語"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a text\r\nof two lines, ünf 語 𝄞".encode() * 50),
        ("bom.txt", b"\xef\xbb\xbfa text"),
        ("rows.jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
        ("crlf.jsonl", b"\xef\xbb\xbf" + "\r\n\r\n".join(map(json.dumps, ROWS)).encode() + b"\r\n"),
    ],
)
def test_a_large_file_gives_the_documents_and_the_digest_of_a_small_one(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    small, large = both(tmp_path / name, monkeypatch)
    assert isinstance(small, Documents) and isinstance(large, Documents)
    assert [text[:] for text in large.texts] == list(small.texts)
    assert list(map(len, large.texts)) == list(map(len, small.texts))
    assert not any(isinstance(text, str) for text in large.texts)
    assert (large.name, large.sha256, large.passed_over) == (small.name, small.sha256, small.passed_over)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("blank.txt", b" \n \r\n", "holds no text"),
        ("empty.jsonl", b"", "holds no text"),
        ("latin.txt", b"a" * 20 + b"\xe9 et le reste", "not UTF-8 text (byte 20)"),
        ("cut.txt", "a語".encode()[:-1], "not UTF-8 text (byte 1)"),
        ("binary.txt", b"abc\x00def", "looks binary"),
        ("odd.jsonl", b'{"text": "a"}\n{"text": 3}\n', "line 2: no text under"),
        ("broken.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3: not JSON"),
        ("named.jsonl", b'{"body": "a"}\n{"body": "b"}\n', "no row has a text under 'text'"),
        ("late.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "not UTF-8 text (byte 24)"),
    ],
)
def test_a_large_file_is_refused_in_the_words_of_a_small_one(
    name: str, content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    small, large = both(tmp_path / name, monkeypatch)
    assert small == large and words in str(small)


def test_a_file_that_goes_in_the_middle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGE", 0)
    for name, content in (("a.txt", "text " * BLOCK), ("a.jsonl", json.dumps({"text": "text " * 10}))):
        file = tmp_path / name
        file.write_text(content)
        (text,) = read_documents(str(file)).texts
        file.unlink()
        with pytest.raises(InputError, match="cannot be read"):
            text[:10]


MEASURE = """
import resource, sys, itertools
import numpy as np
from rtdyn.text.documents import read_documents
from rtdyn.text.draw import draw_windows
from rtdyn.text.tokenizer import load_tokenizer
from rtdyn.suites.suite import PACKAGE

tokenizer = load_tokenizer(PACKAGE / "data" / "tiny")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
texts = read_documents(sys.argv[1]).texts
drawn = draw_windows([texts], tokenizer, 255, 0, np.random.default_rng(0))
assert len(list(itertools.islice(drawn, 24))) == 24
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize("form", ["txt", "jsonl", "one row"])
def test_memory_does_not_grow_with_the_file(form: str, tmp_path: Path) -> None:
    line = "In the beginning was the word, und das Wort war bei 神. " * 40
    count = 128 * 2**20 // len(line.encode())
    file = tmp_path / ("text.txt" if form == "txt" else "text.jsonl")
    with file.open("w", encoding="utf-8") as handle:
        if form == "one row":
            handle.write(json.dumps({"text": line * (count // 8)}, ensure_ascii=False))
            handle.write("\n" + json.dumps({"text": " " * 2**25}))
        for _ in range(count * (form != "one row")):
            handle.write(line if form == "txt" else json.dumps({"text": line}) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file)], capture_output=True, text=True, timeout=HANG, check=True
    )
    # a row is held while it is read: bytes, text of two bytes a character, and the parsed one
    assert int(done.stdout) < (64 if form != "one row" else 300), done.stdout
