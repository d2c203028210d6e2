"""The main test of rare against common: pseudo-classes of common positions (METHODS §3(d)).

A pseudo-class has as many positions as the rare class, as many in each stratum of query positions, and repeats its
types as often. For each rare type it has some common type of as many positions or more. A position's type is that of
the token which decides its class, its target or its query. For classes are sets of types, and influences averaged over
few types single out other neurons than those over many, even in an untrained model. As far as this leaves a choice of
positions, they cluster as the rare ones do. Each window that holds rare positions has a random window that holds common
ones in its place. Pseudo-classes come from a finite set of positions and so share some, a share o on average. So they
scatter too little about their mean, and that mean itself is uncertain. For a statistic that is smooth in the class
means the variances are (1 − o)·V and (1 + o)·V. So `contrast` widens their deviations by √((1 + o)/(1 − o)) before it
ranks the rare class's statistic among them.
"""

from __future__ import annotations

import math

import numpy as np

from rtdyn.counted import counted
from rtdyn.streams import stream
from rtdyn.text.positions import MeasuredPositions
from rtdyn.undefined import Undefined

DRAWS = 200
STRATUM = 32
"""Query positions in a stratum."""
ATTEMPTS = 100
"""Times that the types of a pseudo-class are drawn until its strata are those of the rare class."""


def pseudo_classes(
    positions: MeasuredPositions,
    draws: int = DRAWS,
    seed: int = 0,
    stratum: int = STRATUM,
    rare: str = "rare",
    common: str = "common",
    token: np.ndarray | None = None,
) -> np.ndarray | Undefined:
    """bool (draws, N): the measured positions of each pseudo-class, or why there are none.

    token: int (N,), the id that decides each position's class, by default its target. Every row has the rare class's
    number of positions in every stratum of `stratum` query positions, and its numbers of positions by token. Only
    positions of `common` that are not also of `rare` are taken. Raises StopIteration for a class that is not measured.
    """
    token = positions.target if token is None else token
    is_rare = positions.members(rare)
    pool = np.flatnonzero(positions.members(common) & ~is_rare)
    strata = positions.query // stratum
    count = int(strata.max()) + 1
    needed, available = (np.bincount(strata[chosen], minlength=count) for chosen in (is_rare, pool))
    if (short := np.flatnonzero(needed > available)).size:
        s = int(short[0])
        held = counted(int(available[s]), f"measured {common} position")
        return Undefined(
            f"{held} at queries {s * stratum} to {(s + 1) * stratum - 1}, where the rare class has {needed[s]}"
        )
    repeats = np.sort(np.unique(token[is_rare], return_counts=True)[1])[::-1]
    _, kind = np.unique(token[pool], return_inverse=True)
    most = np.sort(np.bincount(kind))[::-1]
    if len(most) < len(repeats) or (most[: len(repeats)] < repeats).any():
        return Undefined(
            f"too few {common} types come as often as the rare ones, {counted(int(repeats[0]), 'time')} and fewer"
        )
    windows, index = np.unique(positions.window[is_rare], return_inverse=True)
    wanted = np.zeros((len(windows), count), dtype=np.int64)
    np.add.at(wanted, (index, strata[is_rare]), 1)
    hosts, host = np.unique(positions.window[pool], return_inverse=True)
    rng = stream(seed, "pseudo-classes")
    result = np.zeros((draws, len(positions.flat)), dtype=bool)
    for row in result:
        for _ in range(ATTEMPTS):
            quota = _quota(wanted, len(hosts), rng)
            taken = _imitation(host, strata[pool], kind, repeats, quota, wanted.sum(0), rng)
            if (np.bincount(strata[pool[taken]], minlength=count) == needed).all():
                break
        else:
            return Undefined(f"{common} types that repeat as the rare ones do lie at other query positions")
        row[pool[taken]] = True
    return result


def _quota(wanted: np.ndarray, hosts: int, rng: np.random.Generator) -> np.ndarray:
    """int64 (hosts, strata): what hosts take over of the rare windows' positions. wanted: (rare windows, strata)."""
    windows, strata = wanted.shape
    # where rare windows outnumber the hosts, some hosts stand for several
    chosen = np.concatenate([rng.permutation(hosts) for _ in range(math.ceil(windows / hosts))])[:windows]
    quota = np.zeros((hosts, strata), dtype=np.int64)
    np.add.at(quota, chosen, wanted)
    return quota


def _imitation(
    host: np.ndarray,
    stratum: np.ndarray,
    kind: np.ndarray,
    repeats: np.ndarray,
    quota: np.ndarray,
    needed: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """int64 (n,): places in the pool of a pseudo-class, whose strata may fall short of `needed` (strata,).

    host, stratum, kind: (pool,), each position's window, stratum and type. repeats: how often each rare type comes,
    descending. quota: as `_quota` has it.
    """
    quota, left = quota.copy(), needed.copy()
    order = rng.permutation(len(kind))
    by_type = order[np.argsort(kind[order], kind="stable")]
    times = np.bincount(kind)
    end = np.cumsum(times)
    free = np.ones(len(times), dtype=bool)
    chosen = []
    for repeat in repeats[repeats > 1].tolist():
        of_type = int(rng.choice(np.flatnonzero(free & (times >= repeat))))
        free[of_type] = False
        chosen.append((by_type[end[of_type] - times[of_type] : end[of_type]], repeat))
    taken: list[int] = []

    def take(candidates: np.ndarray) -> int:
        """Takes the position of these that the strata and the hosts need most; its place among them."""
        hosts, strata = host[candidates], stratum[candidates]
        keys = left[strata], quota[hosts, strata] > 0, left[strata] > 0
        best = int(np.lexsort(keys)[-1]) if len(candidates) > 1 else 0
        quota[hosts[best], strata[best]] -= 1
        left[strata[best]] -= 1
        taken.append(int(candidates[best]))
        return best

    # those that leave the least choice come first, and last the single ones, whose types fill what strata lack
    for candidates, repeat in sorted(chosen, key=lambda c: len(c[0]) - c[1]):
        for _ in range(repeat):
            place = take(candidates)
            candidates = np.concatenate([candidates[:place], candidates[place + 1 :]])
    for _ in range(int((repeats == 1).sum())):
        lacking = np.zeros_like(free)
        lacking[kind[left[stratum] > 0]] = True
        lacking &= free
        of_type = int(rng.choice(np.flatnonzero(lacking if lacking.any() else free)))
        free[of_type] = False
        take(by_type[end[of_type] - times[of_type] : end[of_type]])
    return np.array(taken)


def overlap(members: np.ndarray) -> float:
    """Share of its positions that a pseudo-class has in common with another, on average. members: bool (draws, N)."""
    draws = len(members)
    if draws < 2:
        return 0.0
    times = members.sum(0, dtype=np.int64)
    return float((times * (times - 1)).sum() / ((draws - 1) * times.sum()))
