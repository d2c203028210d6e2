"""How often each token occurs in a reference corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rtdyn.blame import disk_fault
from rtdyn.errors import InputError, brief
from rtdyn.git_lfs import refuse_pointer
from rtdyn.parquet import read_parquet
from rtdyn.text.draw import stretch_ends
from rtdyn.text.stored_text import Text
from rtdyn.text.tokenizer import Tokenizer
from rtdyn.undefined import Undefined

MAX_TYPES = 10_000_000
"""Largest vocabulary a counts file may describe."""
COUNTED_AT_ONCE = 2**20
"""Characters of a text that are encoded at a time."""


@dataclass(frozen=True)
class TokenCounts:
    """Occurrences of each token type in a reference corpus."""

    counts: np.ndarray
    """int64 (types,), as counted; the analyses use counts + 1."""
    source: str
    sha256: str
    sampled: SampledCounts | None = None
    """Of counts made from a sample of a corpus."""


@dataclass(frozen=True)
class SampledCounts:
    """What a sample of a corpus leaves unknown of its counts, and where it was drawn."""

    relative_se: np.ndarray | Undefined
    """float64 (types,): standard error of each type's frequency over that frequency; inf for a type not met."""
    provenance: Mapping[str, Any]
    """What was read of the corpus, for the manifest."""


def read_counts(file: Path) -> TokenCounts:
    """Counts from a `.npy` vector, or a Parquet file with `count` and optionally `token_id` columns.

    Raises InputError if the file is missing, of another form, or holds negative or equal counts.
    """
    if not file.is_file():
        raise InputError(f"no counts file at {file}; give --frequencies a .npy or .parquet file, `pile` or `corpus`")
    try:
        refuse_pointer(file)
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False)
        elif file.suffix == ".parquet":
            values = _parquet_counts(file)
        else:
            raise InputError(f"{file} is neither .npy nor .parquet; counts are read from those")
    except (OSError, ValueError, EOFError, pl.exceptions.PolarsError) as error:
        mend = "write it anew" if disk_fault(error) is None else "check its disk"
        raise InputError(f"the counts file {file} cannot be read ({brief(error)}); {mend}") from error
    return counts_of(values, str(file))


def count_texts(texts: Iterable[Text], tokenizer: Tokenizer, n_logits: int, source: str) -> TokenCounts:
    """Counts of the tokens of a corpus itself, for `--frequencies corpus`; long texts are encoded in stretches.

    Ids beyond the model's logits are left out; only windows that are measured may hold none.
    """
    counts = np.zeros(tokenizer.size, dtype=np.int64)
    for text in texts:
        ends = stretch_ends(text, COUNTED_AT_ONCE)
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            counts += np.bincount(tokenizer.encode([text[start:end]])[0], minlength=tokenizer.size)
    return counts_of(counts[:n_logits], source)


def sampled_counts(values: np.ndarray, source: str, sampled: SampledCounts) -> TokenCounts:
    """Counts of a sample, checked as those of a file are."""
    return replace(counts_of(values, source), sampled=sampled)


def within(counts: TokenCounts, n_logits: int) -> TokenCounts:
    """The counts without ids beyond a model's logits, as of tokens that were added and never used.

    Raises InputError if such an id was counted.
    """
    beyond = np.flatnonzero(counts.counts[n_logits:])
    if len(beyond):
        raise InputError(
            f"the counts of {counts.source} hold token id {n_logits + int(beyond[0]):,}, and the model has "
            f"{n_logits:,} logits; they belong to another tokenizer"
        )
    if len(counts.counts) <= n_logits:
        return counts
    kept, sampled = counts_of(counts.counts[:n_logits], counts.source), counts.sampled
    if sampled is not None and isinstance(sampled.relative_se, np.ndarray):
        sampled = replace(sampled, relative_se=sampled.relative_se[:n_logits])
    return replace(kept, sampled=sampled)


def _parquet_counts(file: Path) -> np.ndarray:
    frame = read_parquet(file)
    if "count" not in frame.columns:
        raise InputError(f"{file} has no column `count` (its columns: {', '.join(frame.columns)})")
    if "token_id" not in frame.columns:
        return frame["count"].to_numpy()
    if not (frame["token_id"].dtype.is_integer() and frame["count"].dtype.is_numeric()):
        raise InputError(f"{file}: token_id must hold whole numbers and count numbers")
    ids = frame["token_id"].to_numpy()
    if len(ids) == 0 or ids.min() < 0 or ids.max() >= MAX_TYPES or len(np.unique(ids)) != len(ids):
        raise InputError(f"{file}: token_id must hold each id once, from 0 up to {MAX_TYPES - 1:,}")
    values = np.zeros(int(ids.max()) + 1, dtype=np.int64)
    values[ids] = frame["count"].to_numpy()
    return values


def counts_of(values: np.ndarray, source: str) -> TokenCounts:
    """The counts (types,) as they are used. Raises InputError for what are no counts, and for counts all equal."""
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.size == 0:
        raise InputError(f"the counts in {source} must be one vector that holds a count for each token id")
    real = np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)
    if not real or np.any(values != np.floor(values)) or np.any(np.abs(values.astype(np.float64)) >= 2**62):
        raise InputError(f"the counts in {source} must be whole numbers below 2^62")
    if values.min() < 0:
        raise InputError(f"the counts in {source} hold a negative number (id {int(values.argmin())})")
    if values.min() == values.max():
        raise InputError(f"the counts in {source} are all equal, so no type is rare; give real counts")
    counts = values.astype(np.int64)
    return TokenCounts(counts, source, hashlib.sha256(counts.astype("<i8").tobytes()).hexdigest())
