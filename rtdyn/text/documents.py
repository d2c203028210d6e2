"""Evaluation text: documents, read from the bundled book or a user's file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rtdyn.errors import InputError
from rtdyn.parquet import read_parquet
from rtdyn.text import king_james

NOT_TEXT = (".json", ".csv", ".tsv", ".gz", ".zst", ".bz2", ".xz", ".zip", ".npy", ".pdf", ".html")
"""Suffixes whose content would be measured as if its syntax were text."""

BYTE_ORDER_MARK = "\ufeff"
_TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Binary)


@dataclass(frozen=True)
class Documents:
    """Texts in their order, with the digest of what was read."""

    texts: tuple[str, ...]
    name: str
    sha256: str
    passed_over: int = 0
    """Rows without text, blank ones included."""


def read_documents(corpus: str, text_field: str = "text") -> Documents:
    """Documents of a built-in text's name, or of a `.jsonl`, `.parquet` or plain text file.

    Plain text is one document; the other forms hold one a row, in the column `text_field`, and rows without text are
    passed over. A byte order mark at the head of a text is dropped, and CRLF at the end of a line is read as LF.
    Raises InputError if the file is missing, empty, binary, or has no such column.
    """
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
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    rows = readers.get(suffix, _read_text)(file, text_field)
    texts = with_text(rows)
    if not texts:
        raise InputError(f"the corpus {corpus} holds no text")
    return _documents(texts, str(file), len(rows) - len(texts))


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
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", errors="surrogatepass"))
    return digest.hexdigest()


def decode(data: bytes) -> str:
    """UTF-8 text without a byte order mark at its head, its line ends LF. Raises UnicodeDecodeError."""
    return data.decode("utf-8").removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n")


def _decode(file: Path) -> str:
    try:
        text = decode(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the corpus {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"the corpus {file} is not UTF-8 text (byte {error.start}); convert it or name another"
        ) from None
    if "\x00" in text:
        raise InputError(f"the corpus {file} looks binary (it holds a zero byte); give a text, .jsonl or .parquet file")
    return text


def _read_text(file: Path, text_field: str) -> Sequence[str | None]:
    return [_decode(file)]


def _read_jsonl(file: Path, text_field: str) -> Sequence[str | None]:
    rows = parse_lines(_decode(file), text_field, str(file))
    if rows.texts and not rows.named:
        raise no_column(str(file), text_field)
    return rows.texts


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


def parse_lines(text: str, text_field: str, source: str) -> Rows:
    """Lines of JSON; `source` names them in the InputError that a line which is no row of text raises."""
    texts: list[str | None] = []
    named = False
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removeprefix(BYTE_ORDER_MARK)
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=float)  # an int of thousands of digits would be refused
        except json.JSONDecodeError as error:
            raise InputError(f"{source}, line {number}: not JSON ({error.msg})") from None
        except RecursionError:
            raise InputError(f"{source}, line {number}: nested too deeply to be read; leave it out") from None
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


def _read_parquet(file: Path, text_field: str) -> Sequence[str | None]:
    try:
        frame = read_parquet(file)
    except OSError as error:
        raise InputError(f"cannot read the corpus {file}: {error.strerror or error}") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"the corpus {file} is not a readable Parquet file ({error})") from None
    if text_field not in frame.columns or frame[text_field].dtype not in _TEXT_TYPES:
        raise InputError(
            f"{file} has no text column {text_field!r} (its columns: {', '.join(frame.columns)}); "
            "name it with --text-field"
        )
    try:
        return frame[text_field].cast(pl.String).to_list()
    except pl.exceptions.PolarsError:
        raise InputError(
            f"{file}: the column {text_field!r} holds bytes that are not UTF-8 text; name another"
        ) from None
