"""Bit-identical weights at several steps are one observation: which step it belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from rtdyn.registry import Defect


def owner(steps: Collection[int], last_step: int, defects: tuple[Defect, ...], equals_main: bool = False) -> int:
    """The step that weights shared by `steps` belong to.

    It is the one a registered defect names, else the suite's last step if that or the branch main holds them, else
    the earliest. Where only main does, the last step is named although its own weights are others.
    """
    for defect in defects:
        known = defect.belongs_to
        if known is not None and known in steps and set(steps) <= set(defect.steps):
            return known
    return last_step if equals_main or last_step in steps else min(steps)


def duplicate_steps(
    checkpoints: Mapping[int, Mapping[str, Any]], last_step: int, defects: tuple[Defect, ...]
) -> dict[int, int]:
    """Steps whose weights are bit-identical to another's, each with the step those weights belong to.

    checkpoints: each step's record, with the `digests` of its weight files.
    """
    groups: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
    for step, record in checkpoints.items():
        groups[tuple(sorted(record["digests"].items()))].append(step)
    owners = {}
    for steps in groups.values():
        if len(steps) > 1:
            belongs_to = owner(steps, last_step, defects)
            owners.update({step: belongs_to for step in steps if step != belongs_to})
    return dict(sorted(owners.items()))
