"""Steps whose weights are not where training would have brought them, by the distances between fingerprints.

A distance is the chord between two directions, root mean square over matrices: 0 for equal weights, √2 for unrelated
ones. It leaves out the norms, which training may let grow and decay. Training that goes on moves away from where it
was, so of three steps the outer two are farthest apart. Then every gap between neighbours is the narrowest between
those before and those after it. The steps' own order is the shortest path through all of them, whatever monotone
function lengths are measured by (Robinson 1951, American Antiquity 16:293). The path is the minimum spanning tree.
Lengths are logarithms here, so that tiny early moves count as much as large late ones. A step is out of order if moving
it, or exchanging it with another, shortens the path by more than what the fingerprints leave open.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rtdyn.audit.fingerprint import Fingerprint

SHORTER = 0.15
"""Natural logarithm by which another order must be shorter; fingerprints leave about 0.03 open."""
NEARER = 0.85
"""A step belongs elsewhere, not merely off its path, if it is nearer to a step there by this factor."""
UNRELATED = 1.2
"""Chord of a cosine of 0.28; two random directions are at √2."""
JUMP = 10.0
"""How many times a move must exceed those beside it, made in as many updates, to be no training."""
SMALLEST = 1e-6
"""Equal weights are at distance 0, which has no logarithm."""
FEW_UPDATES = 16
"""So many optimiser steps leave weights related, at any rate of learning in use."""


def doubtful_steps(fingerprints: Mapping[int, Fingerprint], steps_are_updates: bool) -> dict[int, str]:
    """Steps that do not continue the others or stand in the wrong place among them, ascending, with the reason.

    steps_are_updates: whether a step is known to be one optimiser step. Fewer than three steps are never doubted,
    and of the steps on both sides of a break the fewer are.
    """
    steps = sorted(fingerprints)
    distance = distances([fingerprints[step] for step in steps])
    odd, order = set[int](), list(range(len(steps)))
    while len(order) > 2 and (move := _best_move(order, distance)):
        order, moved = move
        odd |= moved
    kept = [i for i in range(len(steps)) if i not in odd]
    while len(kept) > 2 and (beside := _beside_break(kept, steps, distance, steps_are_updates)):
        odd |= beside
        kept = [i for i in kept if i not in odd]
    return {steps[i]: _reason(i, steps, distance) for i in sorted(odd)}


def distances(fingerprints: Sequence[Fingerprint]) -> np.ndarray:
    """float64 (n, n): root mean square over matrices of the chord between two steps' directions.

    A matrix that is zero at either of two steps has no direction and is left out for them.
    """
    n = len(fingerprints)
    squares, counted = np.zeros((n, n)), np.zeros((n, n))
    for name in sorted(set[str]().union(*fingerprints)):
        present = [i for i, f in enumerate(fingerprints) if name in f and f[name][0] > 0]
        numbers = np.array([fingerprints[i][name] for i in present], dtype=np.float64)
        if not present:
            continue
        directions = numbers[:, 1:] / numbers[:, :1] / np.sqrt(numbers.shape[1] - 1)
        rows = np.ix_(present, present)
        squares[rows] += np.array([((directions - direction) ** 2).sum(1) for direction in directions])
        counted[rows] += 1
    return np.sqrt(squares / np.maximum(counted, 1))


def _best_move(order: list[int], distance: np.ndarray) -> tuple[list[int], set[int]] | None:
    """The order after the move that shortens the path most, and the steps it shows to be misplaced; None if none does.

    Two neighbours that change places are both misplaced: nothing tells which of them is.
    """
    logs = np.log(np.maximum(distance, SMALLEST))
    best, shortest = None, _length(order, logs) - SHORTER
    for moved, places in _moves(order):
        length = _length(moved, logs)
        if length < shortest and all(_belongs(order[place], order, moved, distance) for place in places):
            misplaced = {order[place] for place in places}
            strangers = {i for i in misplaced if _nearest(i, distance) > UNRELATED}
            best, shortest = (moved, strangers or misplaced), length
    return best


def _moves(order: list[int]) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Every order that puts one step elsewhere or exchanges two, with the places of those in the old one."""
    for i, j in itertools.permutations(range(len(order)), 2):
        if i < j:
            exchanged = list(order)
            exchanged[i], exchanged[j] = order[j], order[i]
            yield exchanged, (i, j)
        if abs(i - j) > 1:
            without = order[:i] + order[i + 1 :]
            yield [*without[:j], order[i], *without[j:]], (i,)


def _length(order: list[int], logs: np.ndarray) -> float:
    """Sum over the path of the logarithms of its gaps."""
    return float(logs[order[:-1], order[1:]].sum())


def _nearest(step: int, distance: np.ndarray) -> float:
    """How far the nearest of all other steps is."""
    return float(np.delete(distance[step], step).min())


def _belongs(step: int, old: list[int], new: list[int], distance: np.ndarray) -> bool:
    """Whether a step has a place in the new order, and is not one whose weights only strayed from a path it is on.

    It has one next to its old neighbours, or where it is nearer to another step; an unrelated one has none anywhere.
    """
    before, after = _neighbours(step, old), _neighbours(step, new)
    nearest = float(distance[step, after].min())
    return bool(
        set(before) & set(after)
        or nearest < NEARER * distance[step, before].min()
        or _nearest(step, distance) > UNRELATED
    )


def _neighbours(step: int, order: list[int]) -> list[int]:
    place = order.index(step)
    return [*order[max(0, place - 1) : place], *order[place + 1 : place + 2]]


def _beside_break(kept: list[int], steps: Sequence[int], distance: np.ndarray, updates: bool) -> set[int]:
    """The fewer steps beside a gap over which no training led, if there is one."""
    gaps = [steps[b] - steps[a] for a, b in itertools.pairwise(kept)]
    moves = [float(distance[a, b]) for a, b in itertools.pairwise(kept)]
    for i, (gap, move) in enumerate(zip(gaps, moves, strict=True)):
        beside = [moves[j] for j in (i - 1, i + 1) if 0 <= j < len(moves) and gaps[j] >= gap]
        sudden = bool(beside) and move > JUMP * max(beside)
        if move > UNRELATED and (sudden or (updates and gap <= FEW_UPDATES)):
            early, late = kept[: i + 1], kept[i + 1 :]
            return set(early if len(early) <= len(late) else late)
    return set()


def _reason(i: int, steps: Sequence[int], distance: np.ndarray) -> str:
    others = np.where(np.arange(len(steps)) == i, np.inf, distance[i])
    nearest = int(np.argmin(others))
    if others[nearest] > UNRELATED:
        return "its weights are unrelated to those of every other step"
    if abs(nearest - i) > 1:
        return f"its weights lie nearer to those of step {steps[nearest]} than to those of its neighbours"
    return f"its weights and its neighbours' are not in the order of training (nearest: step {steps[nearest]})"
