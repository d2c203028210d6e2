"""A checkpoint's folder in the form that transformers can be given, whatever wrote its JSON files."""

from __future__ import annotations

import codecs
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rtdyn.hub.names import CONFIG
from rtdyn.model.settings import is_plain, settings_of_model


@contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """The folder; if its JSON files need changes, one with changed copies of them and links to all other files.

    A UTF-8 byte order mark is dropped, and from config.json the settings of the program that wrote it. The copy is gone
    at the end.
    """
    changed = {file.name: data for file in folder.glob("*.json") if file.is_file() and (data := _changed(file))}
    if not changed:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rtdyn-") as name:
        copy = Path(name)
        for file in folder.iterdir():
            if file.name in changed:
                (copy / file.name).write_bytes(changed[file.name])
            else:
                (copy / file.name).symlink_to(file.resolve())
        yield copy


def _changed(file: Path) -> bytes | None:
    """What is to be read in place of a file, None where it is well as it is."""
    with file.open("rb") as handle:
        marked = handle.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    if file.name == CONFIG:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
        if isinstance(config, dict) and not is_plain(config):
            return json.dumps(settings_of_model(config)).encode()
    return file.read_bytes().removeprefix(codecs.BOM_UTF8) if marked else None
