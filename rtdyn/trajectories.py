"""Which stored steps are observations of their own, and metrics as series over them (METHODS §9)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import polars as pl

from rtdyn.errors import InputError
from rtdyn.registry import Defect
from rtdyn.store import Run, read_table

MIN_STEPS = 3


def duplicate_steps(
    checkpoints: Mapping[int, Mapping[str, Any]], last_step: int, defects: tuple[Defect, ...]
) -> dict[int, int]:
    """Steps whose weights are bit-identical to another's, each with the step those weights belong to.

    They belong to the step a registered defect names, else to the suite's last step if it holds them too, else
    to the earliest. checkpoints: each step's record, with the `digests` of its weight files.
    """
    groups: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
    for step, record in checkpoints.items():
        groups[tuple(sorted(record["digests"].items()))].append(step)
    owners = {}
    for steps in groups.values():
        if len(steps) > 1:
            owner = _owner(steps, last_step, defects)
            owners.update({step: owner for step in steps if step != owner})
    return dict(sorted(owners.items()))


def _owner(steps: list[int], last_step: int, defects: tuple[Defect, ...]) -> int:
    for defect in defects:
        if defect.belongs_to in steps and set(steps) <= set(defect.steps):
            return defect.belongs_to
    return last_step if last_step in steps else min(steps)


def steps_left_out(
    checkpoints: Mapping[int, Mapping[str, Any]], last_step: int, defects: tuple[Defect, ...]
) -> dict[int, str]:
    """Stored steps that are no observations of their own, each with the reason: repeats and registered defects."""
    reasons = {
        step: f"{defect.note} ({defect.source})"
        for defect in defects
        for step in defect.steps
        if step in checkpoints and step != defect.belongs_to
    }
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
