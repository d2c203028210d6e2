"""What stands around every command: the streams it prints to, the errors it ends on, and its exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from io import TextIOWrapper
from typing import Any

import click

FINDING, INTERRUPTED = 1, 130


class Boundary(click.Group):
    """The command as the world around it allows: a terminal that is not UTF-8, a notebook's settings, a closed pipe."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command, on streams that take every character."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # None where it is closed
                stream.reconfigure(errors="backslashreplace")
        os.environ["MPLBACKEND"] = "Agg"  # commands draw into files; a notebook's own backend may not be installed here
        return super().main(*args, **kwargs)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Adds a command, whose options of help are the group's also where it is asked for by itself."""
        cmd.context_settings.setdefault("help_option_names", self.context_settings["help_option_names"])
        super().add_command(cmd, name)


def refuse_clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command on a known error with its sentence and exit code, and on Ctrl-C with 130."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        from rtdyn.errors import RtdynError

        try:
            command(*args, **kwargs)
        except RtdynError as error:
            click.echo(f"rtdyn: {error}", err=True)
            sys.exit(error.exit_code)
        except Exception as error:
            from rtdyn.blame import import_fault, machine_fault

            fault = machine_fault(error) or import_fault(error)
            if fault is None:
                raise
            click.echo(f"rtdyn: {fault}", err=True)
            sys.exit(RtdynError.exit_code)
        except KeyboardInterrupt:
            click.echo("rtdyn: interrupted; the same command goes on where it stopped", err=True)
            sys.exit(INTERRUPTED)

    return guarded
