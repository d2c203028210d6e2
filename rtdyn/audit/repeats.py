"""Steps that hold another's weights in another file, or nearly the same weights, by their fingerprints."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from rtdyn.audit.fingerprint import Fingerprint
from rtdyn.audit.shared_weights import owner
from rtdyn.suites.suite import Defect

UNCHANGED = 0.25
"""Share of a matrix's sums; at 1 % of moved entries 0.125 are unchanged at most, with a standard error of 0.02."""


def repeated_fingerprints(
    fingerprints: Mapping[int, Fingerprint], last_step: int, defects: tuple[Defect, ...]
) -> dict[int, str]:
    """Steps whose fingerprint is another's, each with the reason, but for the step that the weights belong to."""
    alike: dict[tuple[tuple[str, bytes], ...], list[int]] = defaultdict(list)
    for step, fingerprint in fingerprints.items():
        alike[tuple(sorted((name, sums.tobytes()) for name, sums in fingerprint.items()))].append(step)
    repeats = {}
    for steps in (s for s in alike.values() if len(s) > 1):
        belongs_to = owner(steps, last_step, defects)
        why = f"it holds the weights of step {belongs_to}, in another file"
        repeats.update({step: why for step in steps if step != belongs_to})
    return repeats


def nearly_identical(fingerprints: Mapping[int, Fingerprint]) -> dict[int, str]:
    """Steps that differ from the one before them in under 1 % of every matrix's numbers, each with that said.

    A sum of n entries is unchanged where none of them moved, or where moves cancel. Moves cancel most often if a share
    p moves by one unit either way. That has probability exp(-np) I_0(np): 0.125 at 1 % of 1,024 entries. Where
    `UNCHANGED` of a matrix's sums are, p is smaller. Shares above 0.1 % may pass unnoticed. Equal fingerprints are
    `repeated_fingerprints`' to tell.
    """
    said = {}
    for before, step in itertools.pairwise(sorted(fingerprints)):
        mine, theirs = fingerprints[step], fingerprints[before]
        if not mine or mine.keys() != theirs.keys():
            continue
        unchanged = [float(np.mean(mine[name][1:] == theirs[name][1:])) for name in mine]
        if UNCHANGED <= min(unchanged) < 1:
            said[step] = f"nearly identical to step {before}: under 1 % of the numbers looked at differ"
    return said
