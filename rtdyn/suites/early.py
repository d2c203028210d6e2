"""How many checkpoints of a suite lie early in training, where they are known to be rare."""

from __future__ import annotations

from collections.abc import Sequence

from rtdyn.suites.forms import read_name
from rtdyn.suites.suite import SuiteSpec


def checkpoints_below(suite: SuiteSpec, steps: Sequence[int], tokens: int) -> tuple[int, int] | None:
    """The fewest and the most of `steps` that may have seen fewer training tokens; None if that is not known.

    Names give tokens rounded, where the suite does not say them: one may be off by a unit of its last place.
    """
    bounds = [_between(suite, step) for step in steps]
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return None
    return sum(most < tokens for _, most in known), sum(fewest < tokens for fewest, _ in known)


def _between(suite: SuiteSpec, step: int) -> tuple[int, int] | None:
    """The least and the largest number of tokens that `step` may have seen."""
    seen = suite.tokens_seen(step)
    if seen is not None:
        return seen, seen
    if step == 0:
        return 0, 0
    name = read_name(suite.revision_of(step))
    if name is None or name.step is None or name.tokens is None:
        return None
    return max(0, name.tokens - name.within), name.tokens + name.within
