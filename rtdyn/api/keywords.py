"""A command's options as keyword arguments: its names, defaults, help and checks, since its own parser reads them."""

from __future__ import annotations

import inspect
import shlex
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from rtdyn.errors import UsageError, near_matches

F = TypeVar("F", bound=Callable[..., Any])
_WIDTH = 100
"""Columns of a page of help."""
_WITH_COMMAS = {"steps": "int", "analyses": "str", "layers": "int"}
"""Options of several values in one word, and what a list of these holds."""


def options_of(command: click.Command) -> dict[str, click.Option]:
    """A command's options by keyword: `--cache-gb` is `cache_gb`."""
    options = (o for o in command.params if isinstance(o, click.Option))
    return {o.opts[0].removeprefix("--").replace("-", "_"): o for o in options}


def takes_options(command: click.Command, names: Collection[str]) -> Callable[[F], F]:
    """Shows the `**options` of a function for what they are: these of the command's, in its signature and its help."""
    options = {name: option for name, option in options_of(command).items() if name in names}

    def shown(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        further = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(option), annotation=_type(option))
            for name, option in options.items()
        ]
        setattr(function, "__signature__", signature.replace(parameters=[*own, *further]))  # noqa: B010 -- mypy knows none
        described = "\n".join(_described(name, option) for name, option in options.items())
        head = f"The options of `rtdyn {command.name}`:"
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{head}\n\n{described}\n"
        return function

    return shown


def refuse_others(keywords: Iterable[str], names: Collection[str]) -> None:
    """Raises TypeError for a keyword that is not among the names, as Python does."""
    for name in keywords:
        if name not in names:
            raise TypeError(f"there is no option {name!r}{near_matches(name, names)}")


@contextmanager
def parsed(command: click.Command, keywords: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The command's parameters as its parser reads the keywords, and the same in words of a command line.

    The parser's context lasts as long. Raises UsageError for a value that the command would refuse.
    """
    known = options_of(command)
    words = [word for name, value in keywords.items() for word in _words(known[name], value)]
    try:
        with command.make_context(command.name, list(words)) as context:
            yield context.params, shlex.join(["rtdyn", command.name or "", *words])
    except click.ClickException as error:
        raise UsageError(error.format_message()) from None


def _words(option: click.Option, value: Any) -> Iterator[str]:
    """What one types for a value; nothing for None and for a flag that is not set."""
    if value is None or (option.is_flag and value is False):
        return
    if option.is_flag and value is True:
        yield option.opts[0]
        return
    several = not isinstance(value, str | Path | Mapping) and hasattr(value, "__iter__")
    parts = [str(part) for part in value] if several else [str(value)]
    if several and not option.multiple:
        parts = [",".join(parts)]
    for part in parts:
        yield f"{option.opts[0]}={part}"


def _default(option: click.Option) -> Any:
    """The default; None for what the command decides by itself, or takes from elsewhere."""
    if option.is_flag:
        return False
    return option.default if isinstance(option.default, str | int | float | tuple) else None


def _type(option: click.Option) -> str:
    if option.is_flag:
        return "bool"
    kinds = {click.IntRange: "int", click.FloatRange: "float", click.Path: "str | Path"}
    kind = next((kind for of, kind in kinds.items() if isinstance(option.type, of)), "str")
    if isinstance(option.type, click.Choice):
        kind = f"Literal[{', '.join(map(repr, option.type.choices))}]"
    listed = kind if option.multiple else _WITH_COMMAS.get(option.name or "")
    kind = f"{kind} | Sequence[{listed}]" if listed else kind
    return kind if _default(option) is not None else f"{kind} | None"


def _described(name: str, option: click.Option) -> str:
    """A paragraph of help: the keyword, what it may be, its default, and what the command says of it."""
    default = _default(option)
    said = "" if default is None else f", by default {default!r}"
    text = f"{_type(option)}{said}. {option.help or ''}".replace("[default:", "[None:")
    return f"{name}:\n" + textwrap.fill(
        text, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
