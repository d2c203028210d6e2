"""Text of a Hub data set, block by block in random order, reading only the bytes that are asked for.

A block is a row group of a Parquet file, or a stretch of lines of plain files. Compressed files can be read from their
beginning only, so their blocks come in order, file after file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rtdyn.blame import passes
from rtdyn.counted import counted
from rtdyn.errors import InputError, brief
from rtdyn.files import replace_file
from rtdyn.hub.datasets import HubDataset, read_range, read_whole
from rtdyn.hub.remote_file import RemoteFile
from rtdyn.parquet import read_parquet
from rtdyn.streams import stream
from rtdyn.text.columns import Column, TextColumn, check_found
from rtdyn.text.compressed import unpacked
from rtdyn.text.documents import (
    Documents,
    digest_documents,
    named_first,
    refuse_array,
    with_conditions,
)
from rtdyn.text.row_filter import ROWS_WITHOUT_MATCH, RowFilter

EVALUATION_STRETCH = 64 << 10
"""Bytes of a block of a plain file that evaluation text is read from: small, so that a few come from many places."""
COUNTING_STRETCH = 1 << 20
"""Bytes of a block of a plain file whose tokens are counted."""
FILES_AT_ONCE = 16
"""Parquet files whose row groups are drawn from together; each costs its footer."""
MAIN_ORDER, DOMAINS_ORDER = "stretches of a data set", "stretches of domains"
"""Streams of the order of blocks: of a text that is measured whole, and of one whose parts are."""
SAID_FROM = 64 << 20
_LINE_TAIL = 64 << 10


@dataclass(frozen=True)
class TextBlock:
    """Documents that lie side by side in a data set."""

    texts: tuple[Any, ...]
    """Strings, or of a column of token ids an array each."""
    place: str
    """File, and bytes or row group."""
    size: int
    """Bytes of it in the file, compressed where that is."""


def text_blocks(
    dataset: HubDataset,
    text_field: str,
    seed: int | None,
    stretch: int,
    skip: int = 0,
    where: Sequence[str] = (),
) -> Iterator[TextBlock]:
    """Every block of a data set's texts, none twice, in the random order of `seed`; as `column_blocks` has it."""
    return column_blocks(dataset, TextColumn(text_field, skip > 0, where), seed, stretch, skip)


def column_blocks(
    dataset: HubDataset, column: Column, seed: int | None, stretch: int, skip: int = 0, drawn: str = MAIN_ORDER
) -> Iterator[TextBlock]:
    """Every block of a data set, none twice, in the random order of `seed`; the first `skip` are not read.

    seed: None for the order of the files' names and of what they hold.
    drawn: the stream that the order is of, as two texts of one data set need two.
    Rows without text are passed over. Raises InputError for text that cannot be read, or a column that is not there.
    """
    rng = None if seed is None else stream(seed, drawn)
    if dataset.form == ".parquet":
        yield from _row_groups(dataset, column, rng, skip)
    elif dataset.is_compressed:
        files = (dataset.files[i] for i in _order(len(dataset.files), rng))
        blocks = (block for file in files for block in _compressed_blocks(dataset, file, column, stretch))
        yield from (block for i, block in enumerate(blocks) if i >= skip)
    else:
        if dataset.form == ".json" and skip == 0:
            first = dataset.files[0]
            beginning = read_range(dataset, first, 0, min(64, first.size)).decode("utf-8", errors="replace")
            refuse_array(beginning, f"{dataset.address}: {first.name}")
        spans = [(f, start) for f in dataset.files for start in range(0, f.size, stretch)]
        for i in _order(len(spans), rng)[skip:]:
            file, start = spans[i]
            stop = min(start + stretch, file.size)
            data = _whole_lines(dataset, file, start, stop)
            place = f"{file.name}, lines from byte {start:,}"
            texts = column.of_lines(data, f"{dataset.address}: {place}", dataset.form)
            yield TextBlock(texts, place, len(data))
    check_found(column, dataset.address)


def _order(count: int, rng: np.random.Generator | None) -> np.ndarray:
    """int64 (count,): places in random order, or ascending without a generator."""
    return np.arange(count) if rng is None else rng.permutation(count)


def _whole_lines(dataset: HubDataset, file: RemoteFile, start: int, stop: int) -> bytes:
    """The lines that begin at start <= byte < stop, whole."""
    data = read_range(dataset, file, max(start - 1, 0), stop)
    if start > 0:
        _, newline, data = data.partition(b"\n")
        if not newline:
            return b""
    position = stop
    while data and not data.endswith(b"\n") and position < file.size:
        more = read_range(dataset, file, position, min(position + _LINE_TAIL, file.size))
        position += len(more)
        line, newline, _ = more.partition(b"\n")
        data += line + newline
    return data


def _compressed_blocks(dataset: HubDataset, file: RemoteFile, column: Column, stretch: int) -> Iterator[TextBlock]:
    """A compressed file from its beginning, in stretches of whole lines."""
    what = f"{dataset.address}: {file.name}"
    rest, read, lines = b"", 0, 1
    # small pieces, so that not much more is read than is used
    for content, size in unpacked(file.name, _pieces(read_whole(dataset, file), stretch), what):
        rest, read = rest + content, read + size
        if len(rest) < stretch:
            continue
        whole, _, tail = rest.rpartition(b"\n")
        if len(whole) >= stretch:
            part = column.of_lines(whole.removesuffix(b"\r"), f"{what}, from line {lines}", dataset.form)
            yield TextBlock(part, file.name, read)
            lines, rest, read = lines + whole.count(b"\n") + 1, tail, 0
    if rest.strip():
        yield TextBlock(column.of_lines(rest, f"{what}, from line {lines}", dataset.form), file.name, read)


def _pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield from (chunk[i : i + size] for i in range(0, len(chunk), size))


class _RangeFile(io.RawIOBase):
    """A file on the Hub that Parquet's reader may seek in."""

    def __init__(self, dataset: HubDataset, file: RemoteFile) -> None:
        self.read_at = partial(read_range, dataset, file)
        self.size = file.size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = self.read_at(self.position, min(self.position + len(buffer), self.size))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def _row_groups(dataset: HubDataset, column: Column, rng: np.random.Generator | None, skip: int) -> Iterator[TextBlock]:
    """Row groups in random order among those of FILES_AT_ONCE files, which are drawn by size; or all in their order."""
    order, at_once = np.arange(len(dataset.files)), 1
    if rng is not None:
        # exponential times over size rank files as drawing by size without replacement does
        times = rng.exponential(size=len(dataset.files)) / [f.size for f in dataset.files]
        order, at_once = np.argsort(times), FILES_AT_ONCE
    for batch in (order[i : i + at_once] for i in range(0, len(order), at_once)):
        opened = [_open_parquet(dataset, dataset.files[i], column) for i in batch]
        groups = [(i, k, g) for i, k in zip(batch, opened, strict=True) for g in range(k.num_row_groups)]
        for j in _order(len(groups), rng):
            if skip > 0:
                skip -= 1
                continue
            i, reader, group = groups[j]
            yield _row_group(dataset, dataset.files[i], reader, group, column)


def _open_parquet(dataset: HubDataset, file: RemoteFile, column: Column) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        reader = pyarrow.parquet.ParquetFile(_RangeFile(dataset, file), pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        if passes(error):
            raise
        raise InputError(
            f"{dataset.address}: {file.name} is not a readable Parquet file ({brief(error)}); name another"
        ) from None
    refusal = column.refusal(reader.schema_arrow)
    if refusal:
        raise InputError(f"{dataset.address}: {file.name} {refusal}")
    return reader


def _row_group(dataset: HubDataset, file: RemoteFile, reader: Any, group: int, column: Column) -> TextBlock:
    import pyarrow

    place = f"{file.name}, row group {group}"
    try:
        rows = reader.read_row_group(group, columns=column.columns, use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        if passes(error):
            raise
        raise InputError(f"{dataset.address}: {place} cannot be read ({brief(error)}); run the command again") from None
    texts = column.of_rows(column.of_table(rows), f"{dataset.address}: {place}")
    check_found(column, dataset.address, ROWS_WITHOUT_MATCH)
    metadata = reader.metadata.row_group(group)
    parts = [metadata.column(i) for i in range(metadata.num_columns)]
    # a list's own part is called name.list.element
    size = sum(c.total_compressed_size for c in parts if c.path_in_schema.partition(".")[0] in column.columns)
    return TextBlock(texts, place, size)


class HubText:
    """Evaluation text of a data set, read as far as it is asked for; iterating gives the blocks.

    What was read is kept beside the data set's other files, so that a second run reads no network. `say` is told
    how much was read, at every doubling from SAID_FROM bytes on. first: how many documents are read, from the beginning
    on; None for blocks in random order. Raises InputError for shards of token ids.
    """

    kind: Any = pl.String
    """polars' type of what a block's texts are."""

    def __init__(
        self,
        dataset: HubDataset,
        text_field: str,
        seed: int,
        say: Callable[[str], None],
        where: Sequence[str] = (),
        first: int | None = None,
    ) -> None:
        if dataset.form == ".bin":
            raise InputError(f"{dataset.what} holds token ids and no text; give --corpus text")
        self.dataset = dataset
        self.say = say
        self.where = where
        self.first = first
        RowFilter(where)  # what is no condition is refused before anything is read
        key = hashlib.sha256("\0".join([text_field, *where]).encode()).hexdigest()[:16]
        part = f"{seed}" if first is None else f"first-{first}"
        self.file = dataset.folder / f"text-{part}-{key}.parquet"
        order = seed if first is None else None
        self.stream = partial(text_blocks, dataset, text_field, order, EVALUATION_STRETCH, where=where)
        self.used: list[TextBlock] = []
        self.kept: list[TextBlock] = []

    def __iter__(self) -> Iterator[Sequence[str]]:
        self.kept, read, limit = _read_kept(self.file), 0, SAID_FROM
        for block in self.kept:
            self.used.append(block)
            yield block.texts
        for block in self._up_to_the_last(self.stream(skip=len(self.kept))):
            self.used.append(block)
            read += block.size
            if len(self.used).bit_count() == 1:
                self.keep()
            if read >= limit:
                self.say(f"{counted(read, 'byte')} of text read from {self.dataset.what}")
                limit *= 2
            yield block.texts

    def _up_to_the_last(self, blocks: Iterator[TextBlock]) -> Iterator[TextBlock]:
        """The blocks, up to the last document that is asked for."""
        if self.first is None:
            yield from blocks
            return
        left = self.first - sum(len(block.texts) for block in self.used)
        while left > 0 and (block := next(blocks, None)) is not None:
            yield replace(block, texts=block.texts[:left])
            left -= len(block.texts)

    def finish(self) -> Documents:
        """Keeps what was read, and gives it. Raises InputError if that is nothing."""
        self.keep()
        texts = tuple(text for block in self.used for text in block.texts)
        if not texts:
            raise InputError(f"{self.dataset.what} holds no text")
        name = with_conditions(self.dataset.what, self.where)
        return Documents(texts, name if self.first is None else named_first(name, self.first), digest_documents(texts))

    def keep(self) -> None:
        """Keeps what was read."""
        if len(self.used) > len(self.kept):
            schema: dict[str, Any] = {"texts": pl.List(self.kind), "place": pl.String, "size": pl.Int64}
            replace_file(self.file, pl.DataFrame([asdict(b) for b in self.used], schema=schema).write_parquet)
            self.kept = list(self.used)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the text is from, for the manifest."""
        return {
            "address": self.dataset.address,
            "repo": self.dataset.repo,
            "commit": self.dataset.commit,
            "documents": sum(len(b.texts) for b in self.used),
            "bytes": sum(b.size for b in self.used),
            "read": [b.place for b in self.used],
            "kept_in": str(self.file),
        }


def _read_kept(file: Path) -> list[TextBlock]:
    try:
        frame = read_parquet(file)
    except (FileNotFoundError, pl.exceptions.PolarsError):
        return []
    return [TextBlock(tuple(row["texts"]), row["place"], row["size"]) for row in frame.iter_rows(named=True)]
