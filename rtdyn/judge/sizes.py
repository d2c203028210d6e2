"""Models of one family and several sizes: who they are, and a metric of each after equally many tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from rtdyn.judge.series import Series
from rtdyn.store.manifest import Manifest

_SIZE = re.compile(r"(?:^|-)(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>[mb])(?=-|$)", re.IGNORECASE)
_UNITS = {"m": 1e6, "b": 1e9}
OF_THE_MODEL = ("suite", "location", "frequencies", "evaluation_set", "domains", "device", "rtdyn")
"""Settings that models of one family may differ in: digests over padded vocabularies, and where a run was made."""


def family_and_size(suite: str) -> tuple[str, str | None]:
    """A suite's name without the model's size, and the size as it is written, None where the name has none.

    `pythia-deduped` and `1.4b` for pythia-1.4b-deduped.
    """
    found = _SIZE.search(suite)
    if found is None:
        return suite, None
    return (suite[: found.start()] + suite[found.end() :]).strip("-"), found["number"] + found["unit"]


def named_parameters(suite: str) -> float | None:
    """How many parameters the model's name says it has; None where it says nothing."""
    found = _SIZE.search(suite)
    return None if found is None else float(found["number"]) * _UNITS[found["unit"].lower()]


def differ_in_size(manifests: Sequence[Manifest]) -> bool:
    """Whether the runs are of one family, of several sizes, and of the same settings."""
    kinds = {
        (
            family_and_size(m.suite)[0],
            repr(sorted((k, repr(v)) for k, v in m.config.items() if k not in OF_THE_MODEL)),
        )
        for m in manifests
    }
    sizes = [named_parameters(m.suite) for m in manifests]
    return len(manifests) > 1 and len(kinds) == 1 and None not in sizes and len(set(sizes)) == len(sizes)


def equal_tokens(measured: Sequence[Series]) -> float | None:
    """The largest number of tokens seen at which every series has a value; None if there is none."""
    known = [set(s.tokens_seen[np.isfinite(s.value) & np.isfinite(s.tokens_seen)].tolist()) for s in measured]
    return max(set.intersection(*known), default=None)


def value_at(measured: Series, tokens: float) -> tuple[float, float, float]:
    """Value and interval after so many tokens, NaN where it has none."""
    (place,) = np.flatnonzero(measured.tokens_seen == tokens)
    ends = (float(measured.ci_low[place]), float(measured.ci_high[place]))
    return (float(measured.value[place]), *(ends if all(map(math.isfinite, ends)) else (math.nan, math.nan)))
