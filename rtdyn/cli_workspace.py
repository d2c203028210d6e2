"""The command that arranges runs in Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import click

from rtdyn.cli_boundary import refuse_clearly
from rtdyn.cli_complete import complete_runs


@click.command()
@click.argument(
    "runs",
    type=click.Path(path_type=Path),
    nargs=-1,
    required=True,
    metavar="RUN [RUN ...]",
    shell_complete=complete_runs,
)
@refuse_clearly
def workspace(runs: tuple[Path, ...]) -> None:
    """Save a workspace and a report of runs in Weights & Biases: the panels of `rtdyn report`, by interest.

    Each time new ones are saved.
    """
    from rtdyn.views.wandb.workspace import save_workspace

    save_workspace(runs, click.echo)
