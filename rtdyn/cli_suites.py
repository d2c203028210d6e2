"""The options that say which suites, and which of their steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtdyn.cli_command import Command, all_of, in_panel
from rtdyn.cli_complete import complete_models
from rtdyn.errors import UsageError

if TYPE_CHECKING:
    from rtdyn.suites.forms import RevisionPattern


def suites_option(command: Command) -> Command:
    """Adds --suites."""
    option = click.option(
        "--suites", type=click.Path(path_type=Path), help="A file of further suites, in the form of checkpoints.yaml."
    )
    return all_of(in_panel("Input", option), command)


def _pattern(context: click.Context, parameter: click.Parameter, value: str | None) -> RevisionPattern:
    from rtdyn.suites.forms import KNOWN, revision_pattern

    try:
        return KNOWN if value is None else revision_pattern(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


_REVISION_PATTERN = click.option(
    "--revision-pattern",
    "pattern",
    metavar="REGEX",
    callback=_pattern,
    help="Whole names of the steps' branches, tags or folders, where none of the known forms fits. "
    "Its group `step`, or `tokens` with `unit`, orders them; other named groups tell runs apart. "
    "On the Hub, subfolder[@BRANCH]:REGEX means the folders of a branch, commits[@BRANCH]:REGEX its commits by title.",
)
_MODEL = (
    "A suite's name, any repository OWNER/NAME on the Hub, or a folder of checkpoints. Where each step has a "
    "repository of its own, NAME holds {step} and *."
)


def model_option(command: Command) -> Command:
    """Adds --model, for one suite, and --revision-pattern."""
    model = click.option("--model", required=True, shell_complete=complete_models, help=_MODEL)
    return all_of((model, _REVISION_PATTERN), command)


def steps_option(command: Command) -> Command:
    """Adds --steps."""
    return click.option(
        "--steps",
        default="all",
        show_default=True,
        help="all, log (nearest to powers of two), last, 0,1,512, 1000:143000:1000, or a mix.",
    )(command)


def models_option(command: Command) -> Command:
    """Adds --model, for one or several suites, and --revision-pattern."""
    model = click.option(
        "--model",
        "models",
        required=True,
        multiple=True,
        shell_complete=complete_models,
        help=f"{_MODEL} Repeat it, or give a quoted pattern ('pythia-*-seed*', 'runs/*'), for several suites.",
    )
    return all_of(in_panel("Input", model, _REVISION_PATTERN), command)
