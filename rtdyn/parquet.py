"""Parquet files by their very names: a bracket, `*`, `?` or `~` in a path is no pattern.

polars takes such a path for a pattern or a home folder, and then reads other files than the one that is named. Only
this file calls its readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from rtdyn.blame import disk_fault
from rtdyn.git_lfs import refuse_pointer


def read_parquet(file: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """The table in `file`, or some columns of it.

    Raises OSError or PolarsError if it cannot be read, and for a pointer InputError.
    """
    refuse_pointer(file)
    with _disk_faults():
        return pl.read_parquet(file.absolute(), columns=columns, glob=False)


def read_columns(file: Path) -> pl.Schema:
    """The columns of `file` and their types. Raises as `read_parquet`."""
    refuse_pointer(file)
    with _disk_faults(), file.open("rb") as handle:
        return pl.Schema(pl.read_parquet_schema(handle))


def scan_parquet(files: Iterable[Path]) -> pl.LazyFrame:
    """The rows of `files` one below the other, read when they are collected; columns that one lacks are null."""
    return pl.concat([pl.scan_parquet(file.absolute(), glob=False) for file in files], how="diagonal")


def read_metadata(file: Path) -> dict[str, str]:
    """The texts that `file` holds beside its table. Raises as `read_parquet`."""
    refuse_pointer(file)
    with _disk_faults(), file.open("rb") as handle:
        return pl.read_parquet_metadata(handle)


@contextmanager
def _disk_faults() -> Iterator[None]:
    """Has polars' errors be OSErrors where a disk is to blame; it has one type for that and for a damaged table."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        fault = disk_fault(error)
        if fault is None:
            raise
        raise fault from error
