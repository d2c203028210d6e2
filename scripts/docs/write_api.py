"""Writes docs/api.md from the signatures and docstrings of what a program in Python calls.

python scripts/docs/write_api.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import rtdyn
from rtdyn import errors
from rtdyn.api.in_memory import NeuronInfluence
from rtdyn.api.keywords import options_of
from rtdyn.api.track import OPTIONS, TRACK
from rtdyn.integrations.transformers import RtdynCallback
from rtdyn.store.schema import StepTables
from rtdyn.views.notebook import RunFrames

PAGE = Path(__file__).parents[2] / "docs/api.md"
WIDTH = 100
"""Columns of a signature; a longer one has a line for each argument."""
HEAD = """# Python reference

This page is made by `scripts/docs/write_api.py` from the docstrings. [From Python](python.md) shows the calls in use.
"""
FUNCTIONS = tuple(name for name in rtdyn.__all__ if not name.startswith("_"))
CLASSES = {
    "rtdyn.open_run(…)": RunFrames,
    "rtdyn.influence(…)": NeuronInfluence,
    "rtdyn.analyse(…)": StepTables,
}
"""What functions return, by the call."""
ERRORS = (errors.RtdynError, errors.InputError, errors.IncompleteError, errors.OverflowedError, errors.ParityError,
          errors.UsageError)  # fmt: skip
ERROR = re.compile(rf"(?<![\w.`])(?:rtdyn\.errors\.)?({'|'.join(e.__name__ for e in ERRORS)})\b")
SAID = {name: option.help or "" for name, option in options_of(TRACK).items() if name in OPTIONS}
"""What the command says of each option that is one in Python too."""
ARGUMENTS, FIELDS = ("argument", "type", "default", "what it is"), ("name", "type", "what it is")
"""Heads of tables."""
Row = tuple[str, ...]


def page() -> str:
    """The whole page."""
    parts = [HEAD.rstrip()]
    for name in FUNCTIONS:
        parts += [f"## rtdyn.{name}", *_callable(f"rtdyn.{name}", getattr(rtdyn, name))]
    parts += ["### Options of rtdyn.track", "They are those of the command `rtdyn track`, by their names in Python."]
    parts.append(_table(ARGUMENTS, _arguments(rtdyn.track, SAID)))
    for call, returned in CLASSES.items():
        parts += [f"## What `{call}` returns", *_class(returned)]
    parts += ["## RtdynCallback", "From `rtdyn.integrations.transformers`.", _prose(inspect.getdoc(RtdynCallback))]
    parts += _callable("RtdynCallback", RtdynCallback.__init__)
    parts += ["## Errors", "All are in `rtdyn.errors`. A command ends with their exit code."]
    rows = ((f"`{e.__name__}`", str(e.exit_code), " ".join((inspect.getdoc(e) or "").split())) for e in ERRORS)
    parts.append(_table(("error", "exit code", "what it is"), rows))
    return "\n\n".join(parts) + "\n"


def _class(returned: type) -> Iterator[str]:
    """What it is, its fields and properties as a table, then its methods."""
    yield f"`{returned.__name__}`: {_prose(inspect.getdoc(returned))}"
    source = inspect.getsource(returned)
    rows = []
    for field in fields(returned) if is_dataclass(returned) else ():
        said = re.search(rf'^    {field.name}: [^\n]*\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
        if said is None:
            raise SystemExit(f"{returned.__name__}.{field.name} has no docstring")
        rows.append((f"`{field.name}`", _type(str(field.type)), _prose(said[1])))
    own = {name: member for name, member in vars(returned).items() if not name.startswith("_")}
    for name, member in own.items():
        if isinstance(member, property):
            signature = inspect.signature(member.fget) if member.fget else None
            kind = _type(signature.return_annotation) if signature else ""
            rows.append((f"`{name}`", kind, _prose(inspect.getdoc(member))))
    yield _table(FIELDS, rows)
    for name, member in own.items():
        if inspect.isfunction(member):
            yield f"### {returned.__name__}.{name}"
            yield from _callable(name, member)


def _callable(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """The signature without the command's options, the docstring's paragraphs, its arguments as a table."""
    described, options, _ = (inspect.getdoc(function) or "").partition("The options of `rtdyn track`:")
    paragraphs = re.split(r"\n\n", described.strip())
    entries = {n: said for part in paragraphs for n, said in _entries(part)}
    taken = [p for p in inspect.signature(function).parameters if p in SAID and p not in entries]
    yield f"```text\n{_signature(name, function, taken if options else [])}\n```"
    for part in paragraphs:
        if part.startswith("    "):
            yield f"```python\n{textwrap.dedent(part)}\n```"
        elif _entries(part):
            yield _table(ARGUMENTS, _arguments(function, entries))
        else:
            yield _prose(part)
    if options:
        yield "`options` are by keyword, and [those of rtdyn.track](#options-of-rtdyntrack)."
        if name != "rtdyn.track":
            yield "Of these it takes:"
            yield f"```text\n{textwrap.fill(', '.join(taken), WIDTH)}\n```"


def _entries(paragraph: str) -> list[tuple[str, str]]:
    """Arguments of a docstring's paragraph, each its name and colon above an indented text."""
    return re.findall(r"^(\w+):\n((?:    .*\n?)+)", paragraph, re.MULTILINE)


def _arguments(function: Callable[..., Any], said: dict[str, str]) -> Iterator[Row]:
    """A row for each argument that something is said of, in the signature's order."""
    for name, parameter in inspect.signature(function).parameters.items():
        if name in said:
            text, _, instead = said[name].removesuffix("]").partition("[default: ")
            default = instead or f"`{parameter.default!r}`"
            if parameter.default is parameter.empty:
                default = ""
            yield f"`{name}`", _type(parameter.annotation), default, _prose(text)


def _type(annotation: str) -> str:
    """In words: `str | None` is "`str` or `None`", and a Literal its values."""
    spread = re.sub(r"Literal\[([^\]]*)\]", lambda literal: literal[1].replace(", ", " | "), annotation)
    return " or ".join(f"`{kind}`" for kind in spread.split(" | "))


def _signature(name: str, function: Callable[..., Any], options: list[str]) -> str:
    """Without the options, `**options` in their place."""
    signature = inspect.signature(function)
    arguments, by_place = [], True
    for parameter in signature.parameters.values():
        if parameter.name == "self" or parameter.name in options:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and by_place:
            arguments.append("*")
            by_place = False
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        arguments.append(f"{parameter.name}: {parameter.annotation}{default}")
    if options:
        arguments.append("**options")
    returned = signature.return_annotation
    end = "" if returned in (signature.empty, "None") else f" -> {returned}"
    line = f"{name}({', '.join(arguments)}){end}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){end}"


def _table(head: Row, rows: Iterable[Row]) -> str:
    """Of Markdown; a bar inside a cell is no border, and a `<` begins no tag."""
    lines = (" | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in row) for row in (head, *rows))
    top, *rest = (f"| {line} |".replace("|  |", "| |") for line in lines)
    return "\n".join([top, "|" + " --- |" * len(head), *rest])


def _prose(text: str | None) -> str:
    """On one line, each error a link to its row."""
    return ERROR.sub(r"[`\1`](#errors)", " ".join((text or "").split()))


if __name__ == "__main__":
    PAGE.write_text(page())
