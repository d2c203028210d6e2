"""Which stored steps are observations of their own, and metrics as series over them (METHODS §9)."""

from __future__ import annotations

import polars as pl

from rtdyn.errors import InputError
from rtdyn.store.run import Run, read_table

MIN_STEPS = 3


def trajectories(run: Run, table: str = "metrics") -> pl.DataFrame:
    """All metrics over the steps that are observations of their own, in the form of metrics/, or of `table`.

    Raises InputError if fewer than three such steps are stored.
    """
    metrics = read_table(run, table)
    sound = metrics.filter(~pl.col("step").is_in(list(run.manifest.left_out)))
    if sound["step"].n_unique() < MIN_STEPS:
        raise InputError(f"{run.path} holds fewer than {MIN_STEPS} distinct steps; a trajectory needs more")
    return sound
