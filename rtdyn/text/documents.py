"""Evaluation text: documents, read from the bundled book or a user's file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import polars as pl

from rtdyn.blame import reading
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.parquet import read_columns, read_parquet
from rtdyn.text import king_james
from rtdyn.text.row_filter import RowChoice, RowFilter
from rtdyn.text.stored_text import LARGE, Text, stored_rows, stored_text

NOT_TEXT = (".csv", ".tsv", ".gz", ".zst", ".bz2", ".xz", ".zip", ".npy", ".pdf", ".html")
"""Suffixes whose content would be measured as if its syntax were text."""

_LINES = (".jsonl", ".json")
"""Suffixes of lines of JSON."""

BYTE_ORDER_MARK = "\ufeff"
_TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Binary)


@dataclass(frozen=True)
class Documents:
    """Texts in their order, with the digest of what was read."""

    texts: Sequence[Text]
    name: str
    sha256: str
    passed_over: int = 0
    """Rows without text, blank ones included."""


def read_documents(corpus: str, text_field: str = "text", where: Sequence[str] = ()) -> Documents:
    """Documents of a built-in text's name, or of a `.jsonl`, `.json`, `.parquet` or plain text file.

    Plain text is one document; the other forms hold one a row, in the column `text_field`, and rows without text are
    passed over. where: conditions that rows have to meet, as `RowFilter` has them. A byte order mark at the head of a
    text is dropped, and CRLF at the end of a line is read as LF.
    Raises InputError if the file is missing, empty, binary, or has no such column or row.
    """
    conditions = RowFilter(where) if where else None
    if conditions is not None and not corpus.lower().endswith((*_LINES, ".parquet")):
        raise InputError(f"the corpus {corpus} has no rows with fields; --text-where is for .jsonl, .json and .parquet")
    if corpus == "king-james":
        return _documents(king_james.chapters(), corpus)
    if corpus == "king-james-held-out":
        return _documents(king_james.held_out_chapters(), corpus)
    file = Path(corpus)
    if not file.is_file():
        kind = "a folder, not a file" if file.is_dir() else "not there"
        raise InputError(f"the corpus {corpus} is {kind}; give --corpus a text, .jsonl or .parquet file")
    suffix = file.suffix.lower()
    if suffix in NOT_TEXT:
        raise InputError(f"the corpus {corpus} is a {suffix} file; give plain text, .jsonl or .parquet")
    if file.stat().st_size >= LARGE and suffix != ".parquet":
        return _read_large(file, text_field, conditions)
    readers = {**dict.fromkeys(_LINES, _read_jsonl), ".parquet": _read_parquet}
    rows = readers.get(suffix, _read_text)(file, text_field, conditions)
    if conditions is not None:
        conditions.check(str(file))
    return documents_of(rows, f"the corpus {corpus}", with_conditions(str(file), where))


def documents_of(rows: Sequence[str | None], what: str, name: str) -> Documents:
    """The rows that hold text, as documents. Raises InputError, which says `what` they are, if none does."""
    texts = with_text(rows)
    if not texts:
        raise InputError(f"{what} holds no text")
    return _documents(texts, name, len(rows) - len(texts))


def first_of(documents: Documents, count: int | None) -> Documents:
    """The first `count` documents, or all of them."""
    if count is None or len(documents.texts) <= count:
        return documents
    texts = documents.texts[:count]
    digest = digest_documents(text[0 : len(text)] for text in texts)
    return Documents(texts, named_first(documents.name, count), digest, documents.passed_over)


def named_first(name: str, count: int) -> str:
    """The name of a text's first documents."""
    return f"{name}, its first {counted(count, 'document')}"


def with_conditions(name: str, where: Sequence[str]) -> str:
    """A text's name with the conditions on its rows."""
    return name if not where else f"{name} where {' and '.join(where)}"


def _documents(texts: list[str], name: str, passed_over: int = 0) -> Documents:
    return Documents(tuple(texts), name, digest_documents(texts), passed_over)


def with_text(rows: Iterable[str | None]) -> list[str]:
    """The rows that are not null or blank, without the byte order mark that one may begin with."""
    texts = (row.removeprefix(BYTE_ORDER_MARK) for row in rows if row is not None)
    return [text for text in texts if text.strip()]


def digest_documents(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        _add(digest, len(text), [text])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, length: int, parts: Iterable[str]) -> None:
    """Adds a text of so many characters to a digest."""
    digest.update(length.to_bytes(8, "little"))
    for part in parts:
        digest.update(part.encode("utf-8", errors="surrogatepass"))


def decode(data: bytes) -> str:
    """UTF-8 text without a byte order mark at its head, its line ends LF. Raises UnicodeDecodeError."""
    return data.decode("utf-8").removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n")


def _decode(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the corpus {file}: {error.strerror}") from error
    return _decoded(file, 0, data)


def _decoded(file: Path, at: int, data: bytes) -> str:
    """The text of bytes of a file that begin at `at`."""
    try:
        text = decode(data) if at == 0 else data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the corpus {file} is not UTF-8 text (byte {at + error.start}); convert it or name another"
        ) from None
    if "\x00" in text:
        raise InputError(f"the corpus {file} looks binary (it holds a zero byte); give a text, .jsonl or .parquet file")
    return text


def _read_text(file: Path, text_field: str, where: RowFilter | None) -> Sequence[str | None]:
    return [_decode(file)]


def _read_jsonl(file: Path, text_field: str, where: RowFilter | None) -> Sequence[str | None]:
    text = _decode(file)
    refuse_array(text, str(file))
    rows = parse_lines(text, text_field, str(file), where=where)
    if rows.texts and not rows.named:
        raise no_column(str(file), text_field)
    return rows.texts


def _read_large(file: Path, text_field: str, where: RowFilter | None) -> Documents:
    """The same documents as of a small file, with the same digest, but that they stay in it."""
    digest, texts, passed_over, named = hashlib.sha256(), list[Text](), 0, False

    def parse(number: int, at: int, data: bytes) -> str | None:
        nonlocal named
        rows = parse_lines(_decoded(file, at, data), text_field, str(file), number, where)
        named = named or rows.named
        return (rows.texts[0] or "").removeprefix(BYTE_ORDER_MARK) if rows.texts else None

    with reading(f"the corpus {file}"):
        if file.suffix.lower() in _LINES:
            with file.open("rb") as handle:
                refuse_array(handle.read(64).decode("utf-8", errors="replace"), str(file))
            for row, text in stored_rows(file, parse):
                if text.strip():
                    texts.append(row)
                    _add(digest, len(text), [text])
                else:
                    passed_over += 1
            if where is not None:
                where.check(str(file))
            if passed_over and not named:
                raise no_column(str(file), text_field)
        else:
            whole = stored_text(file, partial(_decoded, file))
            if any(block.strip() for block in whole.blocks()):
                texts.append(whole)
            _add(digest, len(whole), whole.blocks())
    if not texts:
        raise InputError(f"the corpus {file} holds no text")
    name = str(file) if where is None else f"{file} where {where.text}"
    return Documents(texts, name, digest.hexdigest(), passed_over)


@dataclass(frozen=True)
class Rows:
    """Rows of JSON."""

    texts: list[str | None]
    """None of a row whose text is null, or that has no such column."""
    named: bool
    """Whether a row has the column, be it null."""


def no_column(source: str, text_field: str) -> InputError:
    """What is said of rows of JSON none of which has the column."""
    return InputError(f"{source}: no row has a text under {text_field!r}; name the column with --text-field")


def refuse_array(beginning: str, source: str) -> None:
    """Raises InputError if a file of JSON begins as one array, of which no line is a row."""
    if beginning.removeprefix(BYTE_ORDER_MARK).lstrip().startswith("["):
        raise InputError(f"{source} begins a JSON array; write its rows as lines of JSON, an object each")


def parse_lines(text: str, text_field: str, source: str, first: int = 1, where: RowChoice | None = None) -> Rows:
    """Lines of JSON; `source` names them in the InputError that a line which is no row of text raises.

    first: the number of the first line. where: rows that do not meet it are passed over.
    """
    texts: list[str | None] = []
    named = False
    for number, row in json_rows(text, source, first):
        if where is not None and not where.keeps(row):
            continue
        found = row.get(text_field) if isinstance(row, dict) else row
        if not isinstance(row, dict) or not isinstance(found, str | None):
            raise InputError(
                f"{source}, line {number}: no text under {text_field!r}; name the column with --text-field"
            )
        if found is not None and any("\ud800" <= character <= "\udfff" for character in found):
            raise InputError(f"{source}, line {number}: holds half of a surrogate pair, which is no text")
        named = named or text_field in row
        texts.append(found)
    return Rows(texts, named)


def json_rows(text: str, source: str, first: int = 1) -> Iterator[tuple[int, Any]]:
    """What each line of JSON holds, with its number; blank lines are passed over, whole numbers are floats.

    Raises InputError, which names `source`, for a line that is no JSON.
    """
    for number, line in enumerate(text.split("\n"), start=first):
        line = line.removeprefix(BYTE_ORDER_MARK)
        if not line.strip():
            continue
        try:
            yield number, json.loads(line, parse_int=float)  # an int of thousands of digits would be refused
        except json.JSONDecodeError as error:
            raise InputError(f"{source}, line {number}: not JSON ({error.msg})") from None
        except RecursionError:
            raise InputError(f"{source}, line {number}: nested too deeply to be read; leave it out") from None


def _read_parquet(file: Path, text_field: str, where: RowFilter | None) -> Sequence[str | None]:
    try:
        columns = read_columns(file)
        read = dict.fromkeys([text_field, *(() if where is None else where.columns)])
        rows = read_parquet(file, [name for name in read if name in columns]) if text_field in columns else None
        if rows is not None and where is not None:
            others = rows.drop(text_field)
            # before polars 2 a frame without columns has no rows
            fields = others.iter_rows(named=True) if others.width else repeat(dict[str, Any](), len(rows))
            rows = rows.filter([where.keeps(row) for row in fields])
        text = None if rows is None else rows[text_field]
    except OSError as error:
        raise InputError(f"cannot read the corpus {file}: {error.strerror or error}") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"the corpus {file} is not a readable Parquet file ({error})") from None
    if text is None or text.dtype not in _TEXT_TYPES:
        raise InputError(
            f"{file} has no text column {text_field!r} (its columns: {', '.join(columns)}); name it with --text-field"
        )
    try:
        return text.cast(pl.String).to_list()
    except pl.exceptions.PolarsError:
        raise InputError(
            f"{file}: the column {text_field!r} holds bytes that are not UTF-8 text; name another"
        ) from None
