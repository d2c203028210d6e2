"""The errors a user sees: one sentence that says what is wrong and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the commands that read no record do without pydantic
    from pydantic import ValidationError


class RtdynError(Exception):
    """Ends a command with its message and `exit_code`, without a traceback."""

    exit_code = 3


class InputError(RtdynError):
    """A source, file or model that cannot be used as it is."""


class ParityError(InputError):
    """A model that is not read as transformers runs it: no step of its family can be measured."""

    exit_code = 1


class UsageError(RtdynError):
    """A command line that asks for something that does not exist or contradicts itself."""

    exit_code = 2


def brief(error: BaseException) -> str:
    """An exception of a library as one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def near_matches(word: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?` for the names most like `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def first_fault(error: ValidationError) -> str:
    """What is wrong with a record that was read: the place of the first fault, and pydantic's sentence on it."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    what = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {what}" if place else what
