"""Git LFS pointers: a few lines of text in place of a large file, in a clone that has not fetched it."""

from __future__ import annotations

import re
from pathlib import Path

from rtdyn.errors import InputError

LONGEST = 1024
"""Bytes; every pointer is shorter, by git-lfs's specification (docs/spec.md)."""
PULL = "run `git lfs pull` in the clone it lies in"
UPLOADED_SO = "its owner has to upload the file itself; use another revision"
_FIRST_LINE = re.compile(
    rb"(\xef\xbb\xbf)?version (https://(git-lfs|hawser)\.github\.com/spec/v1|http://git-media\.io/v/2)\s"
)
"""Of the three versions that git-lfs reads. What follows may be cut off: the file is not there all the same."""


def is_pointer(data: bytes) -> bool:
    """Whether these bytes, the whole file or its first LONGEST, are a pointer."""
    return len(data) < LONGEST and _FIRST_LINE.match(data) is not None


def holds_pointer(file: Path) -> bool:
    """Whether a file is a pointer. Raises OSError if it cannot be read."""
    with file.open("rb") as handle:
        return is_pointer(handle.read(LONGEST))


def refuse_pointer(file: Path) -> None:
    """Raises InputError if the file is a pointer, OSError if it cannot be read."""
    if holds_pointer(file):
        raise pointer_error(str(file))


def pointer_error(what: str, mend: str = PULL) -> InputError:
    """What is said of a pointer."""
    return InputError(f"{what} is a Git LFS pointer, not the file that it stands for; {mend}")
