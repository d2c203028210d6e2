"""Token counts of a Hub data set, from a random sample of its blocks, with their standard errors.

Text is encoded with the model's own tokenizer, and a column of token ids is counted as it is. So are shards of token
ids (`.bin`: the raw numbers of Megatron's indexed data sets, little-endian, without a header). A block is 2^19 tokens
of one shard. The number type is what the `.idx` file beside them says, or uint16. Format: EleutherAI/pythia,
utils/mmap_dataset.py.

Blocks are clusters. With c_b occurrences of a type among the n_b tokens of block b, its frequency is the ratio p =
Σc/Σn. Its standard error is sqrt(B/(B-1) Σ(c_b - p·n_b)²)/Σn over B blocks (Cochran, Sampling Techniques, §6.4). No
correction is made for the share of the corpus that the sample covers, which can only widen it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.files import replace_file
from rtdyn.git_lfs import LONGEST
from rtdyn.hub.datasets import HubDataset, read_range, read_ranges
from rtdyn.parquet import read_metadata, read_parquet
from rtdyn.streams import stream
from rtdyn.text.columns import IdColumn
from rtdyn.text.hub_documents import COUNTING_STRETCH, column_blocks, text_blocks
from rtdyn.text.token_counts import SampledCounts, TokenCounts, sampled_counts
from rtdyn.text.tokenizer import Tokenizer
from rtdyn.undefined import Undefined

BLOCK_TOKENS = 1 << 19
SAVES = 16
"""How often the counts are kept on the way."""
_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_INDEX_TYPES: dict[int, np.dtype[Any]] = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
"""The number types by their code in an index; others hold no token ids."""
_AT_ONCE = 64


@dataclass(frozen=True)
class _Block:
    """The token ids of a block, and what it cost to read."""

    ids: np.ndarray
    place: str
    size: int


@dataclass
class _Tally:
    """Sums over the blocks counted so far."""

    counts: np.ndarray
    """int64 (types,): Σ c_b."""
    squares: np.ndarray
    """float64 (types,): Σ c_b²."""
    products: np.ndarray
    """float64 (types,): Σ c_b·n_b."""
    tokens: int = 0
    tokens_squared: int = 0
    blocks: int = 0
    bytes: int = 0
    places: int = 0
    """Blocks read, those without a token included."""
    whole: bool = False
    """Whether the corpus ended before the sample was full."""
    finished: bool = False

    def add(self, block: _Block) -> None:
        c = np.bincount(block.ids, minlength=len(self.counts))
        n = len(block.ids)
        self.places += 1
        self.bytes += block.size
        if n:
            self.counts += c
            self.squares += c.astype(np.float64) ** 2
            self.products += c * float(n)
            self.tokens += n
            self.tokens_squared += n * n
            self.blocks += 1

    def relative_se(self) -> np.ndarray:
        p = self.counts / self.tokens
        deviations = self.squares - 2 * p * self.products + p**2 * self.tokens_squared
        se = np.sqrt(np.maximum(deviations, 0) * self.blocks / (self.blocks - 1)) / self.tokens
        return np.divide(se, p, out=np.full(len(p), np.inf), where=p > 0)


def count_dataset(
    dataset: HubDataset,
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    text_field: str,
    tokens: int,
    seed: int,
    say: Callable[[str], None],
    id_column: str | None = None,
) -> TokenCounts:
    """Counts of each token type over whole blocks that hold at least `tokens` tokens, or over all there are.

    id_column: a column whose lists of token ids are counted, in place of a text. `tokenizer_sha256` is of its files.
    The counts are kept in the data set's folder: a second call reads no network, and one that was stopped goes on.
    Raises InputError if the data set cannot be read, or holds ids that the tokenizer does not have.
    """
    of_ids = dataset.form == ".bin" or id_column is not None
    setting = {
        "tokenizer": None if of_ids else tokenizer_sha256,
        "types": tokenizer.size,
        "text_field": id_column if of_ids else text_field,
        "tokens": tokens,
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:16]
    file = dataset.folder / f"counts-{key}.parquet"
    tally = _read_tally(file, tokenizer.size)
    if not tally.finished:
        say(f"counting {counted(tokens, 'token')} of {dataset.what}; kept in {file}")
        if id_column is not None:
            blocks = _id_blocks(dataset, id_column, seed, tally.places)
        elif of_ids:
            blocks = _shard_blocks(dataset, tokens, seed, tally.places)
        else:
            blocks = _encoded_blocks(dataset, tokenizer, text_field, seed, tally.places)
        _fill(tally, blocks, tokens, partial(_save_tally, file), dataset, say)
    provenance = {
        "address": dataset.address,
        "repo": dataset.repo,
        "commit": dataset.commit,
        "files": len(dataset.files),
        "bytes_of_files": sum(f.size for f in dataset.files),
        "tokens": tally.tokens,
        "blocks": tally.blocks,
        "bytes": tally.bytes,
        "whole": tally.whole,
        "drawn": "all of it" if tally.whole else _drawn(dataset),
        "seed": seed,
        "tokenizer_files_sha256": None if of_ids else tokenizer_sha256,
        "kept_in": str(file),
        "id_column": id_column,
    }
    column = "" if id_column is None else f", token ids of {id_column}"
    source = f"{dataset.what}{column}, {counted(tally.tokens, 'token')}: {provenance['drawn']}"
    return sampled_counts(tally.counts, source, SampledCounts(_standard_errors(tally, dataset), provenance))


def _fill(
    tally: _Tally,
    blocks: Iterator[_Block],
    tokens: int,
    save: Callable[[_Tally], None],
    dataset: HubDataset,
    say: Callable[[str], None],
) -> None:
    share = math.ceil(tokens / SAVES)
    next_save = tally.tokens + share
    for block in blocks:
        if block.ids.size and (block.ids.max() >= len(tally.counts) or block.ids.min() < 0):
            raise InputError(
                f"{dataset.what}: {block.place} holds token ids beyond the tokenizer's {len(tally.counts):,}; "
                "these counts belong to another tokenizer"
            )
        tally.add(block)
        if tally.tokens >= tokens:
            break
        if tally.tokens >= next_save:
            save(tally)
            next_save = tally.tokens + share
            say(f"  {counted(tally.tokens, 'token')} counted")
    else:
        tally.whole = True
    if tally.tokens == 0:
        raise InputError(f"{dataset.what} holds no text")
    tally.finished = True
    save(tally)


def _drawn(dataset: HubDataset) -> str:
    if dataset.form == ".bin":
        return f"blocks of {BLOCK_TOKENS:,} tokens, drawn at random"
    if dataset.form == ".parquet":
        return "row groups, drawn at random"
    if dataset.is_compressed:
        return "the beginning of files in random order"
    return f"stretches of {COUNTING_STRETCH:,} bytes, drawn at random"


def _standard_errors(tally: _Tally, dataset: HubDataset) -> np.ndarray | Undefined:
    if tally.whole:
        return Undefined("the whole corpus was counted")
    if dataset.is_compressed:
        return Undefined("compressed files are read from their beginning, which is no random sample")
    if tally.blocks < 2:
        return Undefined("the sample is a single block")
    return tally.relative_se()


def _encoded_blocks(
    dataset: HubDataset, tokenizer: Tokenizer, text_field: str, seed: int, skip: int
) -> Iterator[_Block]:
    for block in text_blocks(dataset, text_field, seed, COUNTING_STRETCH, skip):
        ids = tokenizer.encode(list(block.texts)) if block.texts else []
        yield _Block(np.concatenate([np.empty(0, np.int64), *ids]), block.place, block.size)


def _id_blocks(dataset: HubDataset, column: str, seed: int, skip: int) -> Iterator[_Block]:
    ids = IdColumn(column, found=skip > 0)
    for block in column_blocks(dataset, ids, seed, COUNTING_STRETCH, skip):
        yield _Block(np.concatenate([np.empty(0, np.int64), *block.texts]), block.place, block.size)


def _shard_blocks(dataset: HubDataset, tokens: int, seed: int, skip: int) -> Iterator[_Block]:
    dtype = _token_type(dataset)
    length = BLOCK_TOKENS * dtype.itemsize
    for file in dataset.files:
        if file.size < LONGEST:
            read_range(dataset, file, 0, file.size)  # a Git LFS pointer is refused as what it is
        if file.size % dtype.itemsize:
            raise InputError(
                f"{dataset.what}: {file.name} is no list of {dtype.name} token ids: {counted(file.size, 'byte')}"
            )
    spans = [(f, start) for f in dataset.files for start in range(0, f.size, length)]
    order = stream(seed, "stretches to count").permutation(len(spans))[skip:]
    for some in (order[i : i + _AT_ONCE] for i in range(0, len(order), _AT_ONCE)):
        ranges = [(f, start, min(start + length, f.size)) for f, start in (spans[i] for i in some)]
        for (file, start, stop), data in zip(ranges, read_ranges(dataset, ranges), strict=True):
            yield _Block(np.frombuffer(data, dtype=dtype), f"{file.name}, bytes from {start:,}", stop - start)


def _token_type(dataset: HubDataset) -> np.dtype[Any]:
    """The number type that the shards' index names, or uint16 if there is none."""
    if dataset.index is None:
        return _INDEX_TYPES[8]
    what = f"{dataset.what}: {dataset.index.name}"
    header = struct.calcsize("<9sQB")
    if dataset.index.size < header:
        raise InputError(f"{what} is no index of token shards; name shards without it")
    magic, version, code = struct.unpack("<9sQB", read_range(dataset, dataset.index, 0, header))
    if magic != _INDEX_MAGIC or version != 1 or code not in _INDEX_TYPES:
        raise InputError(f"{what} is no index of token shards that can be read; name shards of uint16 or int32 ids")
    return _INDEX_TYPES[code]


def _read_tally(file: Path, types: int) -> _Tally:
    """What is kept of an earlier call, or an empty tally."""
    try:
        frame, kept = read_parquet(file), json.loads(read_metadata(file)["tally"])
    except (FileNotFoundError, KeyError, ValueError, pl.exceptions.PolarsError):
        return _Tally(np.zeros(types, np.int64), np.zeros(types), np.zeros(types))
    counts, squares, products = (frame[name].to_numpy(writable=True) for name in ("counts", "squares", "products"))
    return _Tally(counts, squares, products, **kept)


def _save_tally(file: Path, tally: _Tally) -> None:
    values = {f.name: getattr(tally, f.name) for f in fields(tally)}
    vectors = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
    numbers = {name: v for name, v in values.items() if name not in vectors}
    frame = pl.DataFrame(vectors)
    replace_file(file, lambda aside: frame.write_parquet(aside, metadata={"tally": json.dumps(numbers)}))
