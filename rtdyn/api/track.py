"""`rtdyn track` as a function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rtdyn.api.keywords import options_of, parsed, takes_options
from rtdyn.cli import main
from rtdyn.cli_cluster import check_executor
from rtdyn.cli_jobs import jobs_of
from rtdyn.cli_options import preset_line
from rtdyn.errors import UsageError
from rtdyn.views.notebook import RunFrames, read_frames

TRACK = main.commands["track"]


@takes_options(TRACK, options_of(TRACK).keys() - {"model"})
def track(model: str | Path, **options: Any) -> RunFrames:
    """Analyses the checkpoints of a training run into a run directory, as `rtdyn track` does, and opens it.

    model: a suite's name, its Hub repository, or a folder of checkpoints. The same call goes on with a run that was cut
    off. What the command prints is printed: plain lines in a notebook, and a bar on a terminal.

    Returns the run: its tables are polars frames, as `rtdyn.open_run` gives them.

    Raises rtdyn.errors.UsageError for options that the command would refuse, rtdyn.errors.InputError for a source that
    cannot be used and, once all else is done, for steps that could not be analysed, and rtdyn.errors.ParityError where
    rtdyn does not read the model as transformers runs it.

        run = rtdyn.track("tiny", steps=[0, 512, 4000], analyses="ablation", wandb="disabled")
        run.metrics.collect()
    """
    from rich.console import Console

    from rtdyn.tracking import track as run_track

    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with parsed(TRACK, {"model": [str(model)], **options}) as (params, command):
        check_executor(params["executor"])
        asked = {**params, "command": command}
        models, pattern, steps, suites = (params[name] for name in ("models", "pattern", "steps", "suites"))
        jobs, several = jobs_of(models, pattern, steps, suites, asked, say)
        preset = preset_line()
    if several:
        raise UsageError(f"rtdyn.track follows one model, and {str(model)!r} is a pattern; call it for each")
    if preset is not None:
        say(preset)
    run = run_track(replace(jobs[0], out=params["out"]), console)
    return read_frames(run.path)
