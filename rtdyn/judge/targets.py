"""How many rare targets would decide a criterion whose interval straddles a margin (METHODS §11).

n targets give a half-width h on the side of the margin, which lies a distance g from the value. Then n·(h/g)² targets
bring the interval to the margin if the value stays. For half-widths go with 1/√n where targets come with text of their
own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rtdyn.judge.emergence import interval_90, interval_centre
from rtdyn.judge.verdict import UNDETERMINED, Check
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class DecidingTargets:
    """The number that would decide a criterion, and how."""

    targets: int
    """Rare targets."""
    supports: bool
    """Whether the criterion would be supported, not contradicted."""


def deciding_targets(check: Check, rare_targets: int) -> DecidingTargets | Undefined:
    """How many rare targets would decide a criterion that `rare_targets` leave open, or why no number would."""
    if check.verdict != UNDETERMINED:
        return Undefined(f"it is {check.verdict}")
    if check.value is None:
        return Undefined("it has no value")
    if check.kind in ("null", "p"):
        return Undefined("a p-value judges it, and how that moves with more targets cannot be told")
    if check.at_edge or check.kind == "point":
        return Undefined("its value has no interval")
    if check.ci_low is None or check.ci_high is None or check.clusters is None:
        return Undefined("its interval is not one of text, so that more targets do not narrow it")
    value, low, high, clusters = (np.array([x]) for x in (check.value, check.ci_low, check.ci_high, check.clusters))
    centre = float(interval_centre(value, low, high)[0])
    least = -math.inf if check.margin_low is None else check.margin_low
    most = math.inf if check.margin_high is None else check.margin_high
    supports = least < centre < most
    narrow = interval_90(value, low, high, clusters) if supports and check.level == 0.9 else (low, high)
    below, above = centre - float(narrow[0][0]), float(narrow[1][0]) - centre
    # inside both margins have to be cleared; outside the nearer one
    sides = [(below, centre - least), (above, most - centre)] if supports else [(above, least - centre)]
    if centre >= most:
        sides = [(below, centre - most)]
    if any(gap == 0 for _, gap in sides):
        return Undefined("its value lies on the margin")
    ratio = max(width / gap for width, gap in sides)
    return DecidingTargets(math.ceil(rare_targets * ratio**2), supports)
