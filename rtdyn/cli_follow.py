"""The options of a run that is followed while it trains."""

from __future__ import annotations

import click
from click.core import ParameterSource

from rtdyn.cli_command import Command, all_of, in_panel
from rtdyn.cli_options import FiniteRange
from rtdyn.cli_presets import check_one_design
from rtdyn.sweep.follow_options import FollowOptions
from rtdyn.sweep.job import Job

_FOLLOW = in_panel(
    "Input",
    click.option(
        "--follow",
        is_flag=True,
        help="Take each step of a folder or a repository once it is whole, until Ctrl-C, --until or --idle.",
    ),
    click.option(
        "--until", type=click.IntRange(min=0), help="End with this step, or the first after it.  [default: no end]"
    ),
    click.option(
        "--idle",
        type=FiniteRange(min=0),
        help="End after so many seconds in which nothing changed.  [default: no end]",
    ),
    click.option(
        "--poll",
        type=FiniteRange(min=0, min_open=True),
        default=FollowOptions.poll,
        show_default=True,
        help="Seconds between two looks; a step is whole when two find it so.",
    ),
)


def follow_options(command: Command) -> Command:
    """Adds --follow and what belongs to it."""
    return all_of(_FOLLOW, command)


_OF_FOLLOW = ("until", "idle", "poll")


def of_followed_runs(follow: bool) -> frozenset[str]:
    """The parameters that say nothing of a run that is not followed; none of one that is."""
    return frozenset(() if follow else (*_OF_FOLLOW, "follow"))


def check_follow(follow: bool) -> None:
    """Refuses options of --follow without it, and --follow with what needs all steps at once."""
    context = click.get_current_context()
    for name in _OF_FOLLOW:
        # files and variables are of many runs
        if not follow and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is for --follow; give that too")
    if follow:
        check_one_design("--follow follows one")
    if follow and context.params["executor"] != "serial":
        raise click.UsageError("--follow analyses steps here, as they come; leave out --executor")
    if follow and context.params["on_defect"] != Job.on_defect:
        raise click.UsageError(
            "--follow finds a step unsound once it is analysed, and keeps it out of trajectories; leave out --on-defect"
        )
