"""Runs that differ in seed alone: median and spread of a metric, when it emerges in each, which stand apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtdyn.judge.emergence import Emergence
from rtdyn.judge.series import Series
from rtdyn.store.manifest import Manifest

APART = 3.5
"""Modified z-score from which a value is an outlier (Iglewicz and Hoaglin 1993)."""
LEAST_RUNS = 5
"""Runs from which one may be said to stand apart from the others."""
_SEED = re.compile(r"-(?:data-|weight-)?seed\d+")
_BESIDE = ("suite", "location", "seed", "device", "rtdyn")
"""Settings that runs of several seeds may differ in."""


@dataclass(frozen=True)
class OverSeeds:
    """One metric of several runs at the k steps that all of them hold."""

    steps: np.ndarray
    """int64 (k,), ascending."""
    values: np.ndarray
    """float64 (runs, k), NaN where a run's is undefined."""
    median: np.ndarray
    """float64 (k,), NaN where no run has a value; as are the two that follow."""
    low: np.ndarray
    """The lower quartile."""
    high: np.ndarray
    """The upper quartile."""
    emerged: tuple[int | None, ...]
    """By run, the step at which the effect appears and from which it lasts."""
    apart: tuple[int, ...]
    """Places of the runs that are outliers at over half of the steps."""


def differ_in_seed_alone(manifests: Sequence[Manifest]) -> bool:
    """Whether the runs are of models, or draws, that differ in nothing but their seed."""
    # another --seed draws other windows of the same text
    redrawn = len({m.config.get("seed") for m in manifests}) > 1
    beside = (*_BESIDE, "evaluation_set", "domains") if redrawn else _BESIDE
    kinds = {
        (_SEED.sub("", m.suite), repr(sorted((k, repr(v)) for k, v in m.config.items() if k not in beside)))
        for m in manifests
    }
    seeds = {(m.suite, m.config.get("seed")) for m in manifests}
    return len(manifests) > 1 and len(kinds) == 1 and len(seeds) == len(manifests)


def over_seeds(measured: Sequence[Series], emerged: Sequence[Emergence | None]) -> OverSeeds | None:
    """The metric over runs; None where no step is common to all of them or none has a value."""
    steps = sorted(set.intersection(*(set(s.steps.tolist()) for s in measured)))
    values = np.array([s.value[np.isin(s.steps, steps)] for s in measured])
    known = np.isfinite(values).any(axis=0) if values.size else np.array([], bool)
    if not known.any():
        return None
    spread = np.full((3, len(steps)), np.nan)
    spread[:, known] = np.nanquantile(values[:, known], (0.25, 0.5, 0.75), axis=0)
    return OverSeeds(
        np.array(steps),
        values,
        spread[1],
        spread[0],
        spread[2],
        tuple(None if e is None else e.step for e in emerged),
        _apart(values),
    )


def _apart(values: np.ndarray) -> tuple[int, ...]:
    """Rows of values (runs, k) that are outliers at over half of the steps at which LEAST_RUNS have a value."""
    compared = np.isfinite(values).sum(axis=0) >= LEAST_RUNS
    if not compared.any():
        return ()
    kept = values[:, compared]
    distance = np.abs(kept - np.nanmedian(kept, axis=0))
    spread = np.nanmedian(distance, axis=0)
    # where over half of the runs agree, nothing says how far a run may be off
    beyond = (spread > 0) & (distance * 0.6745 > APART * spread)
    return tuple(np.flatnonzero(beyond.mean(axis=1) > 0.5).tolist())
