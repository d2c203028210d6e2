"""`rtdyn track` as a function."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rtdyn.api.keywords import options_of, parsed, refuse_others, takes_options
from rtdyn.cli import main
from rtdyn.cli_cluster import check_executor
from rtdyn.cli_follow import check_follow
from rtdyn.cli_jobs import followed, jobs_of
from rtdyn.cli_presets import check_one_design, preset_line
from rtdyn.errors import UsageError
from rtdyn.say_plain import say_plain
from rtdyn.tracking import track as run_track
from rtdyn.views.notebook import RunFrames, read_frames

TRACK = main.commands["track"]


OPTIONS = options_of(TRACK).keys() - {"model", "json"}
"""The command's options that mean something in Python."""


@takes_options(TRACK, OPTIONS)
def track(model: str | Path, **options: Any) -> RunFrames:
    """Analyses the checkpoints of a training run into a run directory, as `rtdyn track` does, and opens it.

    The same call goes on with a run that was cut off. What the command prints is printed: plain lines in a notebook, a
    bar on a terminal. With `quiet` it prints only what came out.

    model:
        A suite's name, its Hub repository, or a folder of checkpoints.

    Returns the run: its tables are polars frames, as `rtdyn.open_run` gives them.

    Raises rtdyn.errors.UsageError for options that the command would refuse. Raises rtdyn.errors.InputError for a
    source that cannot be used, and at the end for steps that could not be analysed. Raises rtdyn.errors.ParityError
    where rtdyn does not read the model as transformers runs it.

        run = rtdyn.track("tiny", steps=[0, 512, 4000], analyses="ablation", wandb="disabled")
        run.metrics.collect()
    """
    refuse_others(options, OPTIONS)
    console, results = Console(quiet=bool(options.get("quiet"))), Console()
    say = partial(say_plain, console)
    with parsed(TRACK, {"model": [str(model)], **options}) as (params, command):
        check_executor(params["executor"])
        check_follow(params["follow"])
        check_one_design("rtdyn.track opens one; use the command, and rtdyn.open_run for each")
        preset = preset_line()
    asked = {**params, "command": command}
    sources = (params["models"], params["pattern"], params["steps"], params["suites"])
    if preset is not None:
        say(preset)
    if params["follow"]:
        return read_frames(followed(*sources, asked, console, results).path)
    jobs, several = jobs_of(*sources, asked, say)
    if several:
        raise UsageError(f"rtdyn.track takes one model, and {str(model)!r} is a pattern; call it for each")
    return read_frames(run_track(jobs[0], console, results).path)
