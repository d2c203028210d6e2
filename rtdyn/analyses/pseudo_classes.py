"""The main test of rare against common: pseudo-classes of common positions (METHODS §3 d).

A pseudo-class has as many positions as the rare class and as many in each stratum of query positions, and imitates
how its positions cluster: each window that holds rare positions is replaced by a random window that holds common ones,
and what that window lacks comes from others. Pseudo-classes come from a finite set of positions and so share some,
a share o on average: they scatter too little about their mean, and that mean itself is uncertain. For a statistic that
is smooth in the class means the variances are (1 − o)·V and (1 + o)·V, so `contrast` widens their deviations by
√((1 + o)/(1 − o)) before it ranks the rare class's statistic among them.
"""

from __future__ import annotations

import math

import numpy as np

from rtdyn.analyses.nulls import Comparison, compare
from rtdyn.analyses.regime_evidence import shape_statistic
from rtdyn.analyses.regimes import fit_curves, ranked
from rtdyn.positions import MeasuredPositions

DRAWS = 200
STRATUM = 32
"""Query positions in a stratum."""
MAX_OVERLAP = 0.2
"""Share of positions that two pseudo-classes may have in common; beyond it clusters are imitated too poorly."""
CURVE_STATISTICS = ("excess", "kappa", "r1", "plateau_fraction", "shape_statistic")


def pseudo_classes(
    positions: MeasuredPositions,
    draws: int = DRAWS,
    seed: int = 0,
    stratum: int = STRATUM,
    rare: str = "rare",
    common: str = "common",
) -> np.ndarray | str:
    """bool (draws, N): the measured positions of each pseudo-class, or why there are none.

    Every row has the rare class's number of positions in every stratum of `stratum` query positions; only positions
    of `common` that are not also of `rare` are taken. Raises StopIteration for a class that is not measured.
    """
    is_rare = positions.members(rare)
    pool = np.flatnonzero(positions.members(common) & ~is_rare)
    strata = positions.query // stratum
    count = int(strata.max()) + 1
    needed, available = (np.bincount(strata[chosen], minlength=count) for chosen in (is_rare, pool))
    if (short := np.flatnonzero(needed > available)).size:
        s = int(short[0])
        return (
            f"{available[s]} measured {common} positions at queries {s * stratum} to {(s + 1) * stratum - 1}, "
            f"where the rare class has {needed[s]}"
        )
    windows, index = np.unique(positions.window[is_rare], return_inverse=True)
    wanted = np.zeros((len(windows), count), dtype=np.int64)
    np.add.at(wanted, (index, strata[is_rare]), 1)
    hosts, host = np.unique(positions.window[pool], return_inverse=True)
    rng = np.random.default_rng(seed)
    result = np.zeros((draws, len(positions.flat)), dtype=bool)
    for row in result:
        row[pool[_imitation(host, len(hosts), strata[pool], wanted, rng)]] = True
    return result


def _imitation(
    host: np.ndarray, hosts: int, stratum: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """bool (pool,): a pseudo-class. host, stratum: (pool,); wanted: (rare windows, strata), how many of each."""
    windows, strata = wanted.shape
    # where rare windows outnumber the hosts, some hosts stand for several
    chosen = np.concatenate([rng.permutation(hosts) for _ in range(math.ceil(windows / hosts))])[:windows]
    quota = np.zeros((hosts, strata), dtype=np.int64)
    np.add.at(quota, chosen, wanted)
    order = rng.permutation(len(host))
    taken = _place_in_group(host * strata + stratum, order) < quota[host, stratum]
    missing = wanted.sum(0) - np.bincount(stratum[taken], minlength=strata)
    left = np.flatnonzero(~taken)
    fill = _place_in_group(stratum[left], rng.permutation(len(left))) < missing[stratum[left]]
    taken[left[fill]] = True
    return taken


def _place_in_group(group: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(n,): place, from 0, of each element among those of its group, in the given order."""
    by_group = order[np.argsort(group[order], kind="stable")]
    sorted_group = group[by_group]
    place = np.empty(len(group), dtype=np.int64)
    place[by_group] = np.arange(len(group)) - np.searchsorted(sorted_group, sorted_group)
    return place


def overlap(members: np.ndarray) -> float:
    """Share of its positions that a pseudo-class has in common with another, on average. members: bool (draws, N)."""
    draws = len(members)
    if draws < 2:
        return 0.0
    times = members.sum(0, dtype=np.int64)
    return float((times * (times - 1)).sum() / ((draws - 1) * times.sum()))


def curve_statistics(influence: np.ndarray, uncertainty: np.ndarray | float = 0.0) -> dict[str, np.ndarray]:
    """CURVE_STATISTICS of each of k curves, (k,), NaN where a curve has no fit.

    influence: (k, F) ≥ 0. Nothing but zeros is censored by default, so that rare and pseudo-classes are held to the
    same rule where the latter have no standard errors; else uncertainty is (F,) or (k, F).
    """
    bounds = np.broadcast_to(uncertainty, influence.shape)
    result = {name: np.full(len(influence), np.nan) for name in CURVE_STATISTICS}
    for row, fit in enumerate(fit_curves(influence, bounds)):
        if isinstance(fit, str):
            continue
        _, ranks, log_a = ranked(influence[row], bounds[row])
        members = int(np.searchsorted(ranks, fit.r1, side="right"))
        values = fit.excess, fit.kappa, fit.r1, members / influence.shape[1], shape_statistic(log_a, fit)
        for name, value in zip(CURVE_STATISTICS, values, strict=True):
            result[name][row] = value
    return result


def contrast(rare: float, pseudo: np.ndarray, shared: float = 0.0) -> Comparison | str:
    """The rare class's statistic among those of the pseudo-classes (draws,), NaN left out, or why it has no place.

    shared: the pseudo-classes' `overlap`. The null's mean is that of the pseudo-classes, its deviation is widened;
    p = min(1, 2·(1 + the smaller tail)/(draws + 1)). A value equal to the rare one stays equal to it.
    """
    if not math.isfinite(rare):
        return "the rare class has no value"
    if shared > MAX_OVERLAP:
        return f"pseudo-classes share {shared:.0%} of their positions, over {MAX_OVERLAP:.0%}"
    finite = pseudo[np.isfinite(pseudo)]
    if len(finite) == 0:
        return "no pseudo-class has a value"
    widened = finite.mean() + (finite - finite.mean()) * math.sqrt((1 + shared) / (1 - shared))
    return compare(rare, np.where(finite == rare, finite, widened))
