"""Which stored steps are observations of their own, and metrics as series over them (METHODS §9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from rtdyn.checkpoints.duplicates import duplicate_steps
from rtdyn.errors import InputError
from rtdyn.registry import Defect
from rtdyn.store import Run, read_table

MIN_STEPS = 3


def steps_left_out(
    checkpoints: Mapping[int, Mapping[str, Any]],
    last_step: int,
    defects: tuple[Defect, ...],
    audited: Mapping[int, str | None],
) -> dict[int, str]:
    """Steps that are no observations of their own, each with the reason: repeats and defects.

    audited: of the steps that were audited, stored or not yet, why each is left out, or None; of others the registry
    decides.
    """
    reasons = {step: why for step, why in audited.items() if why is not None}
    for defect in defects:
        for step in defect.steps:
            if step in checkpoints and step not in audited and step != defect.belongs_to:
                reasons.setdefault(step, f"{defect.note} ({defect.source})")
    for step, owner in duplicate_steps(checkpoints, last_step, defects).items():
        reasons.setdefault(step, f"it holds the same weights as step {owner}")
    return dict(sorted(reasons.items()))


def trajectories(run: Run) -> pl.DataFrame:
    """All metrics over the steps that are observations of their own, in the form of metrics/.

    Raises InputError if fewer than three such steps are stored.
    """
    metrics = read_table(run, "metrics")
    left_out = [int(step) for step in run.manifest["left_out"]]
    sound = metrics.filter(~pl.col("step").is_in(left_out))
    if sound["step"].n_unique() < MIN_STEPS:
        raise InputError(f"{run.path} holds fewer than {MIN_STEPS} distinct steps; a trajectory needs more")
    return sound
