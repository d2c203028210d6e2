"""`--config`: a command's options from a file, and as such a file holds them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import click

from rtdyn.cli_command import Decorator, JobCommand, options_of
from rtdyn.errors import InputError, near_matches

_GIVEN = "rtdyn.config"
"""Where a context keeps which parameters --config gave."""
_NOT_OF_A_RUN = ("config", "json", "quiet", "preset")
"""Options that change nothing of what a run is; what a preset sets stands in the file by itself."""


def _apply_config(context: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Makes the file's values the defaults, over those of a preset, in any order."""
    if file is None:
        return
    # with yaml, for which only a command that is given a file is to wait
    from rtdyn.store.settings_file import read_settings

    try:
        settings = read_settings(file)
    except InputError as error:
        raise click.UsageError(str(error), context) from error
    ours, known = options_of(context.command), set(_known(context))
    for name in settings:
        if name not in known:
            raise click.UsageError(f"{file}: no option is called {name!r}{near_matches(name, known)}", context)
    given = {str(ours[name].name): _typed(ours[name], value) for name, value in settings.items() if name in ours}
    context.meta[_GIVEN] = frozenset(given)
    context.default_map = {**(context.default_map or {}), **given}


def _known(context: click.Context) -> Iterator[str]:
    """The options of this command and of others of its kind, whose files it reads too."""
    group = None if context.parent is None else context.parent.command
    others = group.commands.values() if isinstance(group, click.Group) else ()
    for command in (context.command, *(other for other in others if isinstance(other, JobCommand))):
        yield from (name for name in options_of(command) if name != "config")


def _typed(option: click.Option, value: str | list[str]) -> str | list[str]:
    """A file's value as the command line would give it."""
    if option.multiple or option.nargs != 1:
        return [value] if isinstance(value, str) else value
    return value if isinstance(value, str) else ",".join(value)


config_option: Decorator = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_apply_config,
    help="A file of options by their names, such as the run.yaml of a run directory; an option that is given wins.",
)


def from_config(context: click.Context) -> frozenset[str]:
    """The parameters that the command's --config gave."""
    given: frozenset[str] = context.meta.get(_GIVEN, frozenset())
    return given


def settings_of(context: click.Context, left_out: Collection[str]) -> dict[str, Any]:
    """The command's options by name, with the values that it came to, as `--config` reads them again.

    left_out: further parameters that are no part of it, beside those without a value.
    """
    settings: dict[str, Any] = {}
    for name, option in options_of(context.command).items():
        value = context.params.get(str(option.name))
        if name in _NOT_OF_A_RUN or option.name in left_out or value in (None, ()):
            continue
        if isinstance(value, tuple) and (option.multiple or option.nargs != 1):
            settings[name] = [_plain(item) for item in value]
        else:
            settings[name] = ",".join(value) if isinstance(value, tuple) else _plain(value)
    return settings


def _plain(value: Any) -> Any:
    """A parsed value as one types it."""
    if isinstance(value, tuple):
        return "=".join(value)
    return str(value) if isinstance(value, Path) else value
