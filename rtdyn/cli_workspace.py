"""The command that arranges runs in Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import click

from rtdyn.cli_boundary import refuse_clearly
from rtdyn.cli_complete import runs_argument


@click.command()
@runs_argument
@refuse_clearly
def workspace(runs: tuple[Path, ...]) -> None:
    """Save a workspace and a report of runs in Weights & Biases: the panels of `rtdyn report`, by interest.

    Each time new ones are saved.
    """
    from rtdyn.views.wandb.workspace import save_workspace

    save_workspace(runs, click.echo)
