"""A command with many options: its help in panels, and a variable RTDYN_<COMMAND>_<OPTION> for each option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

Command = Callable[..., None]
Decorator = Callable[[Command], Command]
PANELS = ("Input", "Classes", "Analyses", "Memory", "Cluster", "Output", "Others")
"""In the order that help shows them."""


def all_of(options: Sequence[Decorator], command: Command) -> Command:
    """Adds the options, in this order of the help."""
    for option in reversed(options):
        command = option(command)
    return command


def in_panel(panel: str, *options: Decorator) -> tuple[Decorator, ...]:
    """The same options, shown under this heading."""
    assert panel in PANELS

    def shown(option: Decorator) -> Decorator:
        def add(command: Command) -> Command:
            command = option(command)
            vars(vars(command)["__click_params__"][-1])["panel"] = panel
            return command

        return add

    return tuple(map(shown, options))


def options_of(command: click.Command) -> dict[str, click.Option]:
    """A command's options by their long names, without the dashes."""
    options = (param for param in command.params if isinstance(param, click.Option))
    return {max(option.opts, key=len).lstrip("-"): option for option in options}


class JobCommand(click.Command):
    """A command whose options are a job's."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        for long_name, option in options_of(self).items():
            option.envvar = f"RTDYN_{name}_{long_name}".upper().replace("-", "_")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each panel under its heading."""
        shown: dict[str, list[tuple[str, str]]] = {panel: [] for panel in PANELS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                shown[vars(param).get("panel", PANELS[-1])].append(record)
        for panel, records in shown.items():
            if records:
                with formatter.section(panel):
                    formatter.write_dl(records)
