"""The parts of one text, which a field of its rows tells apart: the text is read once for all of them.

Parts are measured in turn. What is read for one and is of another waits for it. The reading goes on where it stopped,
until every part has what it asks for or there is no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from rtdyn.blame import reading
from rtdyn.errors import InputError, UsageError
from rtdyn.git_lfs import refuse_pointer
from rtdyn.hub.datasets import HubDataset, dataset_at, is_hub
from rtdyn.names import PILE
from rtdyn.parquet import read_columns, read_parquet
from rtdyn.suites.suite import KnownText
from rtdyn.text.columns import LabelledColumn, check_found
from rtdyn.text.documents import Documents, digest_documents, refuse_array, with_conditions
from rtdyn.text.hub_documents import COUNTING_STRETCH, DOMAINS_ORDER, HubText, TextBlock, column_blocks
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.row_filter import NAME_LENGTH, shortened
from rtdyn.text.stored_text import LARGE, Text, stored_rows

PILE_ADDRESS = "hf://datasets/EleutherAI/pile_val_test@05b327037e6301f256d8df32193756edc4c8e3bd/val.jsonl"
PILE_FIELD = "meta.pile_set_name"
PILE_PARTS = (
    "Pile-CC", "PubMed Central", "Books3", "OpenWebText2", "ArXiv", "Github", "FreeLaw", "StackExchange",
    "USPTO Backgrounds", "PubMed Abstracts", "Gutenberg (PG-19)", "OpenSubtitles", "Wikipedia (en)", "DM Mathematics",
    "Ubuntu IRC", "BookCorpus2", "EuroParl", "HackerNews", "YoutubeSubtitles", "PhilPapers", "NIH ExPorter",
    "Enron Emails",
)  # fmt: skip
"""As its rows name them, in the order of arXiv 2101.00027, table 1."""
READ_A_TARGET = 1 << 20
"""Bytes of a data set that are read at most for each rare target asked for: some parts are few rows of it."""
MOST = 64
"""Parts beyond which the field is taken for one that tells rows apart, not parts."""
Labelled = tuple[str, Text]


class HubParts(HubText):
    """A text of a data set, read as far as it is asked for; a block's texts are pairs, the part before the text."""

    kind = pl.List(pl.String)

    def __init__(
        self, dataset: HubDataset, text_field: str, field: str, seed: int, say: Callable[[str], None], most: int
    ) -> None:
        """most: bytes after which there are no more blocks. Raises as `HubText`."""
        super().__init__(dataset, text_field, seed, say)
        self.most = most
        key = hashlib.sha256(f"{text_field}\0{field}".encode()).hexdigest()[:16]
        self.file = dataset.folder / f"parts-{seed}-{key}.parquet"
        self.stream = partial(_blocks, dataset, text_field, field, seed)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        for texts in super().__iter__():
            yield texts
            if sum(block.size for block in self.used) >= self.most:
                return


def _blocks(dataset: HubDataset, text_field: str, field: str, seed: int, skip: int) -> Iterator[TextBlock]:
    """Pairs of part and text, but for the first `skip` blocks."""
    column = LabelledColumn(text_field, field, found=skip > 0)
    return column_blocks(dataset, column, seed, COUNTING_STRETCH, skip, DOMAINS_ORDER)


class Parts:
    """A text in blocks, each row's part before it."""

    def __init__(
        self,
        address: str,
        field: str,
        what: str,
        blocks: Iterable[Sequence[Labelled]],
        expected: Sequence[str] = (),
        hub: HubParts | None = None,
    ) -> None:
        """what: names the text. expected: parts that it is known to have. hub: where the blocks come from, if there."""
        self.address, self.field, self.what, self.hub = address, field, what, hub
        self.blocks = iter(blocks)
        self.texts: dict[str, list[Text]] = {name: [] for name in expected}
        """What was read of each part that is not closed, in the order in which they were met."""
        self.taken = dict.fromkeys(self.texts, 0)
        """How many of them were given."""

    def names(self) -> Iterator[str]:
        """Each part, also those that are met while others are read. Raises InputError for none, and for too many."""
        while not self.texts and self.more():
            pass
        if not self.texts:
            raise InputError(f"{self.what}: no row has the field {self.field!r} and a text; correct --domains")
        done = 0
        while done < len(self.texts):
            yield list(self.texts)[done]
            done += 1

    def of(self, name: str) -> Iterator[Sequence[Text]]:
        """The texts of a part, block by block, those that wait first."""
        while True:
            waiting = self.texts[name][self.taken[name] :]
            if waiting:
                self.taken[name] += len(waiting)
                yield waiting
            elif not self.more():
                return

    def more(self) -> bool:
        """Reads a block; whether there was one."""
        block = next(self.blocks, None)
        for name, text in block or ():
            if len(name) > NAME_LENGTH:
                raise InputError(
                    f"{self.what}: the field {self.field!r} has the value {shortened(name)!r}, which is a text and no "
                    "name of a part; name another in --domains"
                )
            self.texts.setdefault(name, [])
            self.taken.setdefault(name, 0)
            if self.taken[name] >= 0:
                self.texts[name].append(text)
        if len(self.texts) > MOST:
            raise InputError(
                f"{self.what}: the field {self.field!r} has over {MOST} values ({', '.join(list(self.texts)[:3])}, …); "
                "name one that tells fewer parts apart in --domains"
            )
        return block is not None

    def close(self, name: str) -> None:
        """Gives back a part's texts, of which no more are asked for."""
        self.texts[name] = []
        self.taken[name] = -1

    def keep(self) -> None:
        """Keeps what was read, where it came from the Hub."""
        if self.hub is not None:
            self.hub.keep()


@dataclass(frozen=True)
class Part:
    """One of them, as evaluation text."""

    parts: Parts
    name: str
    known: KnownText
    """What is known of the whole text beside the suite."""

    @property
    def blocks(self) -> Iterator[Sequence[Text]]:
        """Documents in blocks, in the order of drawing."""
        return self.parts.of(self.name)

    @property
    def documents(self) -> Documents:
        """What was read of it. Raises InputError if that is nothing."""
        texts = self.parts.texts[self.name]
        if not texts:
            raise InputError(f"{self.parts.what} holds no text of {self.name}")
        name = with_conditions(self.parts.what, [f"{self.parts.field}={self.name}"])
        return Documents(tuple(texts), name, digest_documents(text[:] for text in texts))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where it is from; empty for a file."""
        hub = self.parts.hub
        if hub is None:
            return {}
        own = {"documents": len(self.parts.texts[self.name]), "kept_in": str(hub.file)}
        return {"address": hub.dataset.address, "repo": hub.dataset.repo, "commit": hub.dataset.commit, **own}


def open_parts(domains: str, options: EvaluationOptions, say: Callable[[str], None]) -> Parts:
    """The parts that `domains` names: `pile`, or ADDRESS::FIELD.

    On the Hub the text is read in random stretches, READ_A_TARGET bytes at most for each rare target.

    Raises UsageError for what is neither, and InputError for a text that cannot be read or a field that no row has.
    """
    text_field, seed = options.text_field, options.seed
    address, separator, field = (PILE_ADDRESS, "::", PILE_FIELD) if domains == PILE else domains.rpartition("::")
    if not (address and separator and field):
        raise UsageError(f"cannot read --domains {domains!r}; give pile, or ADDRESS::FIELD, such as news.jsonl::lang")
    expected = PILE_PARTS if domains == PILE else ()
    if not is_hub(address):
        rows = labelled_rows(Path(address), text_field, field)
        return Parts(address, field, address, [rows], expected)
    dataset = dataset_at(address)
    hub = HubParts(dataset, text_field, field, seed, say, READ_A_TARGET * options.wanted)
    return Parts(address, field, dataset.what, hub, expected, hub)


def labelled_rows(file: Path, text_field: str, field: str) -> list[Labelled]:
    """Every row's part and text, of a file of rows; those of a large one stay in it.

    Raises InputError if the file is missing or no such file, or no row has the field or the text.
    """
    suffix, column = file.suffix.lower(), LabelledColumn(text_field, field)
    if not file.is_file():
        raise InputError(f"{file} is {'a folder, not a file' if file.is_dir() else 'not there'}; correct --domains")
    if suffix not in (".jsonl", ".json", ".parquet"):
        raise InputError(f"{file} has no rows with fields; --domains is for .jsonl, .json and .parquet")
    with reading(f"the text {file}"):
        refuse_pointer(file)
        rows = _parquet_rows(file, column) if suffix == ".parquet" else _json_rows(file, column)
    check_found(column, str(file))
    if not rows:
        raise InputError(f"{file} holds no text")
    return rows


def _parquet_rows(file: Path, column: LabelledColumn) -> list[Labelled]:
    try:
        if refusal := column.refusal(pl.DataFrame(schema=read_columns(file)).to_arrow().schema):
            raise InputError(f"{file} {refusal}")
        table = read_parquet(file, column.columns).to_arrow()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{file} is not a readable Parquet file ({error}); name another in --domains") from None
    return list(column.of_rows(column.of_table(table), str(file)))


def _json_rows(file: Path, column: LabelledColumn) -> list[Labelled]:
    with file.open("rb") as handle:
        refuse_array(handle.read(64).decode("utf-8", errors="replace"), str(file))
    if file.stat().st_size < LARGE:
        return list(column.of_lines(file.read_bytes(), str(file), file.suffix.lower()))
    labels: list[str] = []

    def parse(number: int, at: int, data: bytes) -> str | None:
        pairs = column.of_lines(data, f"{file}, line {number}", file.suffix.lower())
        labels[:] = [label for label, _ in pairs]
        return pairs[0][1] if pairs else None

    return [(labels[0], row) for row, _ in stored_rows(file, parse)]
