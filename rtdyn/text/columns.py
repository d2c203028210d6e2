"""The column of a data set that is read: text, or token ids that are counted as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from rtdyn.errors import InputError
from rtdyn.text.documents import decode, json_rows, no_column, parse_lines, with_text
from rtdyn.text.row_filter import ROWS_WITHOUT_MATCH, RowChoice, RowFilter, RowLabels

_TEXT_TYPES = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
_ROWS_WITHOUT_COLUMN = 1000
"""Rows of JSON after which a column that none of them has is taken for a wrong one."""
_EXACT = 2**53
"""Whole numbers up to it are exact in JSON."""


class Column(Protocol):
    """What is asked of a column, whatever it holds."""

    name: str
    rows: int
    """Rows of JSON read so far."""
    found: bool
    """Whether any of them has the column."""

    where: RowChoice | None
    """Which rows are read; None for all."""

    @property
    def columns(self) -> list[str]:
        """Columns of a Parquet file that have to be read."""
        ...

    def of_table(self, table: Any) -> list[Any]:
        """The column's values in the rows of an Arrow table that are read."""
        ...

    def of_lines(self, data: bytes, what: str, form: str) -> tuple[Any, ...]:
        """The column's values in a part of a plain file; `what` names it in an InputError."""
        ...

    def lacking(self, what: str) -> InputError:
        """What is said of rows of JSON none of which has the column."""
        ...

    def refusal(self, schema: Any) -> str:
        """Why a Parquet file with this schema has no such column; empty if it has."""
        ...

    def of_rows(self, rows: Iterable[Any], what: str) -> tuple[Any, ...]:
        """The column's values among those of a row group."""
        ...


def check_found(column: Column, what: str, rows: int = 1) -> None:
    """Raises InputError if at least `rows` rows of JSON were read and none has the column."""
    if column.where is not None:
        column.where.check(what, 1 if rows == 1 else ROWS_WITHOUT_MATCH)
    if column.rows >= rows and not column.found:
        raise column.lacking(what)


class TextColumn:
    """Texts, without null and blank ones."""

    def __init__(self, name: str, found: bool, where: Sequence[str] = ()) -> None:
        self.name, self.found, self.rows = name, found, 0
        self.where: RowChoice | None = RowFilter(where, met=found) if where else None

    @property
    def columns(self) -> list[str]:
        """As `Column` has it."""
        return list(dict.fromkeys([self.name, *(() if self.where is None else self.where.columns)]))

    def of_table(self, table: Any) -> list[Any]:
        """As `Column` has it."""
        if self.where is None:
            return list(table.column(self.name).to_pylist())
        return [row[self.name] for row in table.to_pylist() if self.where.keeps(row)]

    def of_lines(self, data: bytes, what: str, form: str) -> tuple[str, ...]:
        """As `Column` has it; a file that is no JSON is one text. Raises InputError for what is no UTF-8."""
        if not form.startswith(".json"):
            text = _decoded(data, what)
            if self.where is not None:
                raise InputError(
                    f"{what} has no rows with fields; {self.where.option} is for .jsonl, .json and .parquet"
                )
            return tuple(with_text([text]))
        return tuple(with_text(self.rows_of_lines(data, what)))

    def rows_of_lines(self, data: bytes, what: str) -> list[str | None]:
        """The texts of lines of JSON that are read, None where one has none. Raises as `of_lines`."""
        rows = parse_lines(_decoded(data, what), self.name, what, where=self.where)
        self.found, self.rows = self.found or rows.named, self.rows + len(rows.texts)
        check_found(self, what, _ROWS_WITHOUT_COLUMN)
        return rows.texts

    def lacking(self, what: str) -> InputError:
        """As `Column` has it."""
        return no_column(what, self.name)

    def refusal(self, schema: Any) -> str:
        """As `Column` has it."""
        import pyarrow

        absent = [name for name in self.columns if name not in schema.names and name != self.name]
        if absent and self.where is not None:
            return f"has no column {absent[0]!r} (its columns: {', '.join(schema.names)}); correct {self.where.option}"
        kind = schema.field(self.name).type if self.name in schema.names else None
        if str(kind.value_type if isinstance(kind, pyarrow.DictionaryType) else kind) in _TEXT_TYPES:
            return ""
        return f"has no text column {self.name!r} (its columns: {', '.join(schema.names)}); name it with --text-field"

    def of_rows(self, rows: Iterable[Any], what: str) -> tuple[str, ...]:
        """As `Column` has it. Raises InputError for bytes that are no UTF-8."""
        try:
            return tuple(with_text(row.decode("utf-8") if isinstance(row, bytes) else row for row in rows))
        except UnicodeDecodeError:
            raise InputError(f"{what} holds bytes that are not UTF-8 text under {self.name!r}; name another") from None


class LabelledColumn(TextColumn):
    """Texts, each in a pair behind the value that its row has under a field; rows without one are passed over."""

    def __init__(self, name: str, field: str, found: bool = False) -> None:
        super().__init__(name, found)
        self.labels = RowLabels(field, met=found)
        self.where = self.labels

    def of_table(self, table: Any) -> list[Any]:
        """As `Column` has it."""
        texts = super().of_table(table)
        return list(zip(self.labels.take(), texts, strict=True))

    def of_lines(self, data: bytes, what: str, form: str) -> tuple[Any, ...]:
        """As `Column` has it. Raises as `TextColumn`."""
        if not form.startswith(".json"):
            return super().of_lines(data, what, form)
        self.labels.take()
        rows = self.rows_of_lines(data, what)
        return self.of_rows(zip(self.labels.take(), rows, strict=True), what)

    def of_rows(self, rows: Iterable[Any], what: str) -> tuple[Any, ...]:
        """As `Column` has it. Raises as `TextColumn`."""
        return tuple((label, text) for label, row in rows for text in super(LabelledColumn, self).of_rows([row], what))


class IdColumn:
    """Lists of token ids, int64 (tokens,) each, without null and empty ones."""

    where: RowChoice | None = None

    def __init__(self, name: str, found: bool) -> None:
        self.name, self.found, self.rows = name, found, 0

    @property
    def columns(self) -> list[str]:
        """As `Column` has it."""
        return [self.name]

    def of_table(self, table: Any) -> list[Any]:
        """As `Column` has it."""
        return list(table.column(self.name).to_pylist())

    def of_lines(self, data: bytes, what: str, form: str) -> tuple[np.ndarray, ...]:
        """As `Column` has it. Raises InputError for a file that is no JSON, and a value that is no list of ids."""
        if not form.startswith(".json"):
            raise InputError(f"{what} is no .jsonl or .parquet file, whose columns hold token ids; name another")
        values: list[np.ndarray] = []
        for number, row in json_rows(_decoded(data, what), what):
            self.rows += 1
            if not isinstance(row, dict):
                raise InputError(f"{what}, line {number}: no object with token ids; name another file")
            self.found = self.found or self.name in row
            values += self.of_rows([row.get(self.name)], f"{what}, line {number}")
        check_found(self, what, _ROWS_WITHOUT_COLUMN)
        return tuple(values)

    def lacking(self, what: str) -> InputError:
        """As `Column` has it."""
        return InputError(f"{what}: no row has token ids under {self.name!r}; name the column after `::`")

    def refusal(self, schema: Any) -> str:
        """As `Column` has it."""
        import pyarrow.types as kinds

        kind: Any = schema.field(self.name).type if self.name in schema.names else None
        is_list = kind is not None and (
            kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
        )
        if is_list and kinds.is_integer(kind.value_type):
            return ""
        return (
            f"has no column {self.name!r} of lists of token ids (its columns: {', '.join(schema.names)}); "
            "name it after `::` in the address"
        )

    def of_rows(self, rows: Iterable[Any], what: str) -> tuple[np.ndarray, ...]:
        """As `Column` has it. Raises InputError for a value that is no list of ids."""
        values = []
        for row in rows:
            if row is None or row == []:
                continue
            ids = np.asarray(row) if isinstance(row, list) else np.empty(0)
            if ids.ndim != 1 or ids.dtype.kind not in "iuf" or ids.size == 0:
                raise InputError(f"{what}: {self.name!r} is no list of token ids; name the column after `::`")
            if np.any(ids != np.floor(ids)) or ids.min() < 0 or ids.max() >= _EXACT:
                raise InputError(f"{what}: {self.name!r} holds what is no token id; name the column after `::`")
            values.append(ids.astype(np.int64))
        return tuple(values)


def _decoded(data: bytes, what: str) -> str:
    try:
        text = decode(data)
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text (byte {error.start}); name another file") from None
    if "\x00" in text:
        raise InputError(f"{what} looks binary (it holds a zero byte); name another file")
    return text
