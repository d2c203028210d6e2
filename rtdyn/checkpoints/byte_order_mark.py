"""JSON files that begin with a UTF-8 byte order mark, for readers that take it for an error."""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """The folder; if JSON files in it begin with a mark, one with copies of them without it and links to the others.

    The copy is gone at the end.
    """
    marked = {file.name for file in folder.glob("*.json") if file.is_file() and _begins_with_mark(file)}
    if not marked:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rtdyn-") as name:
        copy = Path(name)
        for file in folder.iterdir():
            if file.name in marked:
                (copy / file.name).write_bytes(file.read_bytes().removeprefix(codecs.BOM_UTF8))
            else:
                (copy / file.name).symlink_to(file.resolve())
        yield copy


def _begins_with_mark(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
