"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from rtdyn.blame import disk_fault
from rtdyn.errors import InputError, brief

ASIDE = ".aside"


def clear_aside(path: Path) -> None:
    """Deletes the unfinished files of killed writers."""
    for leftover in path.rglob(f".*{ASIDE}"):
        leftover.unlink(missing_ok=True)


def write_json(file: Path, data: Any) -> None:
    """Replaces `file` with `data` as JSON, whole or not at all."""
    replace_file(file, lambda aside: aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8"))


def replace_file(file: Path, write: Callable[[Path], Any]) -> None:
    """Writes beside `file`, flushes, renames over it, and flushes the folder. Raises InputError if it cannot."""
    aside = None
    try:
        file.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=ASIDE)
        os.close(descriptor)
        aside = Path(name)
        write(aside)
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        aside.chmod(0o644)
        aside.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"cannot write {file} ({brief(error)}); make room or give another --out") from (
            disk_fault(error) or error
        )
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)
