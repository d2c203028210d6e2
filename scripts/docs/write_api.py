"""Writes docs/api.md from the signatures and docstrings of what a program in Python calls.

python scripts/docs/write_api.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import rtdyn
from rtdyn import errors
from rtdyn.api.in_memory import NeuronInfluence
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


def page() -> str:
    """The whole page."""
    parts = [HEAD.rstrip()]
    for name in FUNCTIONS:
        parts += [f"## rtdyn.{name}", *_callable(f"rtdyn.{name}", getattr(rtdyn, name))]
    for call, returned in CLASSES.items():
        parts += [f"## What `{call}` returns", *_class(returned)]
    parts += ["## RtdynCallback", "From `rtdyn.integrations.transformers`.", _prose(RtdynCallback)]
    parts += _callable("RtdynCallback", RtdynCallback.__init__)
    parts += ["## Errors", "All are in `rtdyn.errors`. A command ends with their exit code."]
    parts.append("\n".join(f"- `{e.__name__}`, exit code {e.exit_code}: {_prose(e)}" for e in ERRORS))
    return "\n\n".join(parts) + "\n"


def _callable(name: str, function: Callable[..., Any]) -> Iterator[str]:
    yield f"```text\n{_signature(name, function)}\n```"
    yield from _described(function, with_options=name == "rtdyn.track")


def _class(returned: type) -> Iterator[str]:
    """What it is, its fields and properties as a list, then its methods."""
    yield f"`{returned.__name__}`: {_prose(returned)}"
    source = inspect.getsource(returned)
    held = []
    for field in fields(returned) if is_dataclass(returned) else ():
        said = re.search(rf'^    {field.name}: [^\n]*\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
        held.append(f"- `{field.name}`" + (f": {' '.join(said[1].split())}" if said else ""))
    own = {name: member for name, member in vars(returned).items() if not name.startswith("_")}
    held += [f"- `{name}`: {_prose(member)}" for name, member in own.items() if isinstance(member, property)]
    yield "\n".join(held)
    for name, member in own.items():
        if inspect.isfunction(member):
            yield f"### {returned.__name__}.{name}"
            yield from _callable(name, member)


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    arguments, by_place = [], True
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and by_place:
            arguments.append("*")
            by_place = False
        if parameter.name != "self":
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            arguments.append(f"{parameter.name}: {parameter.annotation}{default}")
    returned = signature.return_annotation
    end = "" if returned in (signature.empty, "None") else f" -> {returned}"
    line = f"{name}({', '.join(arguments)}){end}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){end}"


def _prose(what: object) -> str:
    return " ".join((inspect.getdoc(what) or "").split())


def _described(function: Callable[..., Any], *, with_options: bool) -> Iterator[str]:
    """A docstring's paragraphs, its examples as blocks. The command's options are a table, once on the page."""
    for part in re.split(r"\n\n", inspect.getdoc(function) or ""):
        if part.startswith("    "):
            yield f"```python\n{textwrap.dedent(part)}\n```"
        elif part.startswith("The options of `rtdyn track`:"):
            if not with_options:
                yield "Its other arguments are options of [rtdyn.track](#rtdyntrack)."
        elif options := re.findall(r"^(\w+):\n((?:    .*\n?)+)", part, re.MULTILINE):
            if with_options:
                cells = ((name, " ".join(said.split()).replace("|", r"\|")) for name, said in options)
                rows = (f"| `{name}` | {said} |" for name, said in cells)
                yield "\n".join(["| option | what it is |", "| --- | --- |", *rows])
        else:
            yield " ".join(part.split())


if __name__ == "__main__":
    PAGE.write_text(page())
