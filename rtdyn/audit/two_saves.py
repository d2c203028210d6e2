"""Steps that are put together from two saves: some parts are their step's, others are another's.

The distances between fingerprints are taken for one part of the model at a time: a layer, the embedding, the
unembedding. A step is of two saves if one part is out of the order of training and another is in it. A part is out of
order if moving it shortens the path through all steps (`weight_order` says why). So is one that equals that of another
step. A part that three steps in a row hold alike is taken for frozen weights. One from a save between the step's
neighbours leaves the order as it is and cannot be told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from rtdyn.audit.fingerprint import Fingerprint
from rtdyn.audit.weight_order import JUMP, NEARER, SMALLEST, UNRELATED, distances, doubtful_steps
from rtdyn.model.stored_names import part_of

SHORTER = 0.3
"""Natural logarithm by which a part's path must be shorter; of sound parts every move makes it longer."""
FAR_OFF = 0.5
"""By which it must be shorter where the part lies no nearer to another step than to its neighbours."""
AS_WELL = 0.15
"""Equal parts of two steps fit as well at either where the path's length differs by no more."""
MOVED = 0.01
"""Chord by which the other parts must differ where one is equal: half precision may round a smaller move away."""


def misplaced_steps(fingerprints: Mapping[int, Fingerprint], steps_are_updates: bool) -> dict[int, str]:
    """Steps whose weights, or parts of them, are not where training would have brought them, with the reason.

    steps_are_updates: whether a step is known to be one optimiser step. Fewer than three steps are never doubted.
    """
    whole = doubtful_steps(fingerprints, steps_are_updates)
    # a step that is wholly misplaced makes its neighbours look put together
    without = steps_of_two_saves({step: f for step, f in fingerprints.items() if step not in whole})
    mixed = {s: why for s, why in steps_of_two_saves(fingerprints).items() if s in whole or s in without}
    rest = {step: f for step, f in fingerprints.items() if step not in mixed}
    return dict(sorted({**doubtful_steps(rest, steps_are_updates), **mixed}.items()))


def steps_of_two_saves(fingerprints: Mapping[int, Fingerprint]) -> dict[int, str]:
    """Steps of which some parts are of another save than others, ascending, with the reason.

    Fewer than three steps are never doubted.
    """
    misplaced: dict[int, dict[str, str]] = defaultdict(dict)
    in_place: set[int] = set()
    parts = _parts(fingerprints)
    for part, names in parts.items():
        steps = [s for s, f in sorted(fingerprints.items()) if names <= f.keys() and any(f[n][0] > 0 for n in names)]
        if len(steps) < 3:
            continue
        distance = distances([{name: fingerprints[step][name] for name in names} for step in steps])
        others = distances([{n: v for n, v in fingerprints[step].items() if n not in names} for step in steps])
        odd, fitting = _odd_and_fitting(steps, distance, others)
        for i in odd:
            misplaced[steps[i]][part] = _whose(i, steps, distance)
        in_place |= {steps[i] for i in fitting}
    wholly = {step for step, odd_parts in misplaced.items() if len(odd_parts) == len(parts)}
    if wholly:  # they make their neighbours look misplaced
        return steps_of_two_saves({step: f for step, f in fingerprints.items() if step not in wholly})
    return {step: _reason(whose) for step, whose in sorted(misplaced.items()) if step in in_place}


def _parts(fingerprints: Mapping[int, Fingerprint]) -> dict[str, frozenset[str]]:
    """The names of each part's matrices, as most steps hold them."""
    held: dict[str, Counter[frozenset[str]]] = defaultdict(Counter)
    for fingerprint in fingerprints.values():
        for part in {part_of(name) for name in fingerprint}:
            held[part][frozenset(name for name in fingerprint if part_of(name) == part)] += 1
    return {part: counts.most_common(1)[0][0] for part, counts in held.items()}


def _odd_and_fitting(steps: Sequence[int], distance: np.ndarray, others: np.ndarray) -> tuple[set[int], set[int]]:
    """Of one part: the steps at which it is out of order, and those at which any move would make the path longer."""
    logs = np.log(np.maximum(distance, SMALLEST))
    odd = _wrong_of_equal(distance, others, logs) | _strange_ends(steps, distance)
    order = [i for i in range(len(distance)) if i not in odd]
    while len(order) > 2:
        gain, place = _best_moves(logs[np.ix_(order, order)])
        moved = _misplaced(gain, place, distance[np.ix_(order, order)])
        if not moved:
            return odd, {order[i] for i in np.flatnonzero(gain <= 0)}
        odd |= {order[i] for i in moved}
        order = [i for i in order if i not in odd]
    return odd, set()


def _wrong_of_equal(distance: np.ndarray, others: np.ndarray, logs: np.ndarray) -> set[int]:
    """The holders of equal parts that are not where these belong; both, where either place fits as well."""
    wrong: set[int] = set()
    for first in range(len(distance)):
        holders = [int(i) for i in np.flatnonzero(distance[first] == 0)]
        in_a_row = len(holders) >= 3 and holders[-1] - holders[0] == len(holders) - 1
        if holders[0] < first or len(holders) == 1 or in_a_row or others[np.ix_(holders, holders)].max() < MOVED:
            continue
        rest = [i for i in range(len(distance)) if i not in holders]
        cost = {i: _length(sorted([*rest, i]), logs) for i in holders}
        wrong |= {i for i in holders if cost[i] > min(cost.values()) + AS_WELL}
        fitting = [i for i in holders if i not in wrong]
        wrong |= set(fitting) if len(fitting) > 1 else set()
    return wrong


def _strange_ends(steps: Sequence[int], distance: np.ndarray) -> set[int]:
    """The first and the last step, where it is unrelated to all others and no training led there."""
    strange = set()
    for end, beside, further in ((0, 1, 2), (-1, -2, -3)):
        away = float(np.delete(distance[end], end).min())
        sudden = away > JUMP * distance[beside, further]
        if away > UNRELATED and sudden and abs(steps[beside] - steps[further]) >= abs(steps[end] - steps[beside]):
            strange.add(end % len(steps))
    return strange


def _length(order: list[int], logs: np.ndarray) -> float:
    """Sum over a path of the logarithms of its gaps."""
    return float(logs[order[:-1], order[1:]].sum())


def _best_moves(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 (m,), int64 (m,): by how much moving each step at best shortens the path, and before which step.

    logs: (m, m) logarithms of distances in the order of the path.
    """
    m = len(logs)
    gaps = np.diagonal(logs, 1)
    removed = np.concatenate([[0.0], gaps]) + np.concatenate([gaps, [0.0]])
    removed[1:-1] -= np.diagonal(logs, 2)
    inserted = np.empty((m, m + 1))
    inserted[:, 0], inserted[:, m] = logs[:, 0], logs[:, -1]
    inserted[:, 1:m] = logs[:, :-1] + logs[:, 1:] - gaps
    own = np.arange(m)
    inserted[own, own] = inserted[own, own + 1] = np.inf
    place = inserted.argmin(1)
    return removed - inserted[own, place], place


def _misplaced(gain: np.ndarray, place: np.ndarray, distance: np.ndarray) -> set[int]:
    """The step whose move shortens the path most, by SHORTER at least, if it belongs elsewhere.

    Two neighbours that change places are both misplaced, unless another step's move explains as much. A step that
    strayed a little from the path and belongs nowhere else stays.
    """
    neighbours, least = set[int](), SHORTER
    for i in (int(i) for i in np.argsort(-gain)):
        if gain[i] <= least:
            break
        after = [j for j in (place[i] - 1, place[i]) if 0 <= j < len(gain)]
        before = [j for j in (i - 1, i + 1) if 0 <= j < len(gain)]
        passed = set(after) & set(before)
        if passed:
            neighbours, least = neighbours or {i, *map(int, passed)}, max(least, gain[i] - AS_WELL)
            continue
        alone = np.delete(distance[i], i).min() > UNRELATED
        nearer = distance[i, after].min() < NEARER * distance[i, before].min()
        if alone or nearer or gain[i] > FAR_OFF:
            return {i}
    return neighbours


def _whose(i: int, steps: list[int], distance: np.ndarray) -> str:
    others = np.where(np.arange(len(steps)) == i, np.inf, distance[i])
    nearest = int(np.argmin(others))
    if others[nearest] > UNRELATED:
        return "unrelated to every other step's"
    return f"{'equal to' if others[nearest] == 0 else 'nearest to'} step {steps[nearest]}'s"


def _reason(parts: Mapping[str, str]) -> str:
    """What is said of a step with these misplaced parts, by whose each is."""
    whose: dict[str, list[str]] = defaultdict(list)
    for part, owner in sorted(parts.items()):
        whose[owner].append(part)
    said = "; ".join(
        f"{', '.join(some[:3])}{f' and {len(some) - 3} more parts' if len(some) > 3 else ''}: {owner}"
        for owner, some in whose.items()
    )
    return f"it is put together from two saves ({said}; its other weights are in their place)"
