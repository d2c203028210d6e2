"""The errors a user sees: one sentence that says what is wrong and how to mend it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # the commands that read no record do without pydantic
    from pydantic import ValidationError


class RtdynError(Exception):
    """Ends a command with its message and `exit_code`, without a traceback."""

    exit_code = 3


class InputError(RtdynError):
    """A source, file or model that cannot be used as it is."""


class IncompleteError(InputError):
    """Steps that could not be analysed, in a run that holds the others."""

    def __init__(self, message: str, run: Path) -> None:
        super().__init__(message)
        self.run = run
        """The run directory."""


class OverflowedError(InputError):
    """A checkpoint whose numbers go beyond those that float32 holds."""


class ParityError(InputError):
    """A model that is not read as transformers runs it: no step of its family can be measured."""

    exit_code = 1


class UsageError(RtdynError):
    """A command line that asks for something that does not exist or contradicts itself."""

    exit_code = 2


_UNSAFE = re.compile(r"weights_only|allow_pickle|trust_remote_code|trust the source", re.IGNORECASE)
"""In messages that advise to run code that a file brings."""


def brief(error: BaseException) -> str:
    """An exception of a library as one line: its type and the first line of its message.

    Advice to run code that came with a file is not repeated, and of pydantic's errors the first is named.
    """
    kind, text = type(error).__name__, json_fault(error).strip()
    if _UNSAFE.search(text):
        return f"{kind}: it is no plain data, and rtdyn runs no code that a file brings"
    if kind == "ValidationError" and hasattr(error, "errors"):
        return f"{kind}: {first_fault(cast('ValidationError', error))}"
    return f"{kind}: {text.splitlines()[0]}" if text else kind


def json_fault(error: BaseException) -> str:
    """Why a text is not JSON that can be read: what json.loads raised, in words that hold no advice on Python."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it holds a number of thousands of digits" if "int_max_str_digits" in str(error) else str(error)


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
