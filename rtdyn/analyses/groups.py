"""Groups of neurons chosen on one half of the windows and measured on the other (METHODS §4).

Choosing neurons by influence alone changes their statistics even in an untrained model, so no group is measured on
the windows it was chosen on; every number is the mean over both ways. Each group has its nulls (`nulls.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.ablation import ClassInfluence, PseudoInfluence, clustered_se
from rtdyn.analyses.nulls import (
    DRAWS,
    MATCHED,
    NULLS,
    RANDOM,
    SELECTED,
    Comparison,
    compare,
    matched_sets,
    random_sets,
)
from rtdyn.analyses.regimes import DECAY, POWER_LAW, Regimes, fit_regimes

TOP_SHARE = 0.01
MIN_TOP = 32
CLEAR_SE = 2.0
"""An influence is clear of zero beyond this many standard errors plus its error bound."""
PLATEAU, TOP, BOOST, SUPPRESS = "plateau", "top", "boost", "suppress"
GROUPS = (PLATEAU, TOP, BOOST, SUPPRESS, POWER_LAW, DECAY)

Statistic = Callable[[int, np.ndarray], Mapping[str, np.ndarray]]
"""From a half of the windows and sets (s, n) to values (s,) by metric, NaN where undefined."""


@dataclass(frozen=True)
class HalfInfluence:
    """Influence of each neuron on one class over one half of the windows, as ClassInfluence has it; (F,)."""

    mean_abs: np.ndarray
    mean_abs_se: np.ndarray
    mean: np.ndarray
    mean_se: np.ndarray
    error_bound: np.ndarray

    def uncertainty(self) -> np.ndarray:
        """What `mean_abs` must exceed not to be censored."""
        return CLEAR_SE * self.mean_abs_se + self.error_bound


@dataclass(frozen=True)
class Group:
    """A group as each half chose it, with the sets of its nulls."""

    name: str
    members: tuple[np.ndarray, np.ndarray]
    """int64, ascending: chosen on half 0 and on half 1."""
    sets: Mapping[str, tuple[np.ndarray, np.ndarray] | str]
    """By null: sets (s, n) for each half's group, or why there are none."""
    matched_distance: float | None
    """Decile differences a member that the matched sets could not avoid."""


@dataclass(frozen=True)
class GroupValue:
    """A statistic of a group, the mean over both ways of splitting, and its nulls."""

    value: float
    n: int
    """Neurons, the smaller half's choice."""
    nulls: Mapping[str, Comparison | str]


def top_size(neurons: int) -> int:
    """Members of `top`."""
    return min(neurons, max(MIN_TOP, math.ceil(TOP_SHARE * neurons)))


def window_halves(documents: np.ndarray) -> np.ndarray:
    """int64 (windows,): 0 or 1. documents (windows,); each goes whole to the half that has fewer windows so far."""
    halves = np.empty(len(documents), dtype=np.int64)
    sizes = [0, 0]
    for document in dict.fromkeys(documents.tolist()):
        mine = documents == document
        half = int(sizes[1] < sizes[0])
        halves[mine] = half
        sizes[half] += int(mine.sum())
    return halves


def half_influence(c: ClassInfluence, halves: np.ndarray, half: int) -> HalfInfluence | str:
    """A class's influence over one half of the windows, or why there is none. halves: by window id."""
    own = halves[c.window_ids.cpu().numpy()] == half
    if own.sum() < 2:
        return f"half of the windows hold {int(own.sum())} with positions of the class"
    counts = c.window_n[own]
    n = counts.sum()
    abs_sums, sums = c.window_abs_sum[own], c.window_sum[own]
    values = (
        abs_sums.sum(0) / n, clustered_se(abs_sums, counts), sums.sum(0) / n, clustered_se(sums, counts),
        c.error_bound * (c.n / n),
    )  # fmt: skip
    return HalfInfluence(*(v.cpu().numpy() for v in values))


def half_regimes(influence: HalfInfluence) -> Regimes:
    """The fit of a half's curve."""
    return fit_regimes(influence.mean_abs, influence.uncertainty())


def choose(influence: HalfInfluence, regimes: Regimes, stable: np.ndarray) -> dict[str, np.ndarray]:
    """Members of each group by one half's influence. stable: bool (F,), the plateau's stable members."""
    clear = np.abs(influence.mean) > CLEAR_SE * influence.mean_se + influence.error_bound
    flags = {
        PLATEAU: stable,
        TOP: regimes.rank <= top_size(len(stable)),
        BOOST: clear & (influence.mean > 0),
        SUPPRESS: clear & (influence.mean < 0),
        POWER_LAW: regimes.label == POWER_LAW,
        DECAY: regimes.label == DECAY,
    }
    return {name: np.flatnonzero(flag) for name, flag in flags.items()}


def with_nulls(
    name: str,
    members: tuple[np.ndarray, np.ndarray],
    regimes: tuple[Regimes, Regimes],
    pseudo: PseudoInfluence | None,
    deciles: np.ndarray,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Group:
    """The group with its random, matched and selected sets. deciles: `nulls.matching_deciles`."""
    pairs: dict[str, list[np.ndarray | str]] = {null: [] for null in NULLS}
    distances = []
    for half, own in enumerate(members):
        pairs[RANDOM].append(random_sets(own, len(deciles), draws, rng))
        matched = matched_sets(own, deciles, draws, rng)
        if isinstance(matched, str):
            pairs[MATCHED].append(matched)
        else:
            pairs[MATCHED].append(matched[0])
            distances.append(matched[1])
        pairs[SELECTED].append(_selected(name, own, regimes[half], pseudo, half))
    sets: dict[str, tuple[np.ndarray, np.ndarray] | str] = {}
    for null, (first, second) in pairs.items():
        sets[null] = first if isinstance(first, str) else second if isinstance(second, str) else (first, second)
    return Group(name, members, sets, float(np.mean(distances)) if len(distances) == 2 else None)


def _selected(
    name: str, members: np.ndarray, regimes: Regimes, pseudo: PseudoInfluence | None, half: int
) -> np.ndarray | str:
    """What the group's rule picks for each pseudo-class, at the group's size: by rank of influence, or of its sign."""
    if pseudo is None:
        return "there are no pseudo-classes"
    n = pseudo.n[half].cpu().numpy()[:, None]
    if (n == 0).any():
        return "a pseudo-class has no position in half of the windows"
    sums = pseudo.abs_sum if name not in (BOOST, SUPPRESS) else pseudo.sum
    score = sums[half].cpu().numpy() / n
    order = np.argsort(score if name == SUPPRESS else -score, axis=1, kind="stable")
    first = 0 if name in (PLATEAU, TOP, BOOST, SUPPRESS) else int(regimes.rank[members].min(initial=1)) - 1
    return np.sort(order[:, first : first + len(members)], axis=1)


def measure(group: Group, statistic: Statistic) -> dict[str, GroupValue]:
    """Every metric of `statistic` for the group, each half's choice measured on the other half; NaN where undefined."""
    values = [statistic(1 - half, own[None]) for half, own in enumerate(group.members)]
    nulls: dict[str, dict[str, np.ndarray] | str] = {}
    for null, sets in group.sets.items():
        if isinstance(sets, str):
            nulls[null] = sets
            continue
        drawn = [statistic(1 - half, own) for half, own in enumerate(sets)]
        nulls[null] = {metric: (drawn[0][metric] + drawn[1][metric]) / 2 for metric in drawn[0]}
    result = {}
    for metric in values[0]:
        value = float((values[0][metric][0] + values[1][metric][0]) / 2)
        against = {
            null: drawn if isinstance(drawn, str) else compare(value, drawn[metric]) for null, drawn in nulls.items()
        }
        result[metric] = GroupValue(value, min(map(len, group.members)), against)
    return result
