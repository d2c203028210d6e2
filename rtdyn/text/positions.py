"""Which positions of the evaluation set each token class is measured on (METHODS §1)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.streams import stream
from rtdyn.text.token_classes import TokenClasses
from rtdyn.text.windows import EvaluationSet


@dataclass(frozen=True)
class ClassPositions:
    """One class's positions: how many there are, and those drawn to be measured."""

    name: str
    available: int
    measured: np.ndarray
    """int64 (n,), ascending: indices into the flattened windows."""


@dataclass(frozen=True)
class MeasuredPositions:
    """The union of all classes' measured positions; every per-position array of a capture has this order."""

    flat: np.ndarray
    """int64 (N,), ascending: indices into the flattened windows."""
    window: np.ndarray
    """int64 (N,)."""
    query: np.ndarray
    """int64 (N,): index within the window."""
    target: np.ndarray
    """int64 (N,): id of the next token."""
    classes: tuple[ClassPositions, ...]

    def members(self, name: str) -> np.ndarray:
        """bool (N,): which positions the class `name` is measured on."""
        chosen = next(c for c in self.classes if c.name == name)
        return np.isin(self.flat, chosen.measured)


def measure(
    evaluation: EvaluationSet,
    classes: TokenClasses,
    class_by: str,
    positions_per_rare: float,
    min_targets: int,
    seed: int,
) -> MeasuredPositions:
    """Each class's kept positions, at most `positions_per_rare` times the rare ones, drawn by `seed`.

    class_by: `target`, or `query` for the query's own token. Raises InputError for a class with fewer than
    `min_targets` positions.
    """
    if (fault := unmeasurable(evaluation, classes, class_by, min_targets)) is not None:
        raise InputError(f"{fault.reason}; {fault.mend}")
    length = evaluation.windows.shape[1]
    targets = evaluation.targets.ravel()
    by_class = _by_class(evaluation, classes, class_by)
    cap = int(positions_per_rare * len(by_class["rare"]))
    drawn = tuple(
        ClassPositions(n, len(available), _draw(n, available, cap, seed)) for n, available in by_class.items()
    )
    flat = np.unique(np.concatenate([c.measured for c in drawn]))
    return MeasuredPositions(flat, flat // length, flat % length, targets[flat].astype(np.int64), drawn)


@dataclass(frozen=True)
class Unmeasurable:
    """What keeps a text from being measured."""

    rare: int
    """Positions of the class `rare` that it has."""
    reason: str
    mend: str
    """What the user may change."""


def unmeasurable(
    evaluation: EvaluationSet, classes: TokenClasses, class_by: str, min_targets: int
) -> Unmeasurable | None:
    """Why the first class that cannot be measured cannot be: too few positions, or all in one window."""
    by_class = _by_class(evaluation, classes, class_by)
    rare, length = len(by_class["rare"]), evaluation.windows.shape[1]
    for name, available in by_class.items():
        if len(available) < min_targets:
            reason = (
                f"the class {name!r} has only {counted(len(available), 'position')} in "
                f"{evaluation.windows.size:,} evaluation tokens, under the {min_targets} of --min-targets"
            )
            mend = "give more text (--corpus, --tokens), a wider band (--rare) or a lower --min-targets"
            return Unmeasurable(rare, reason, mend)
        if len(np.unique(available // length)) < 2:
            reason = f"all positions of the class {name!r} lie in one window, which leaves no standard error"
            return Unmeasurable(rare, reason, "give more text (--corpus, --tokens) or a smaller --window")
    return None


def without_sparse(
    evaluation: EvaluationSet, classes: TokenClasses, class_by: str, min_targets: int, optional: Collection[str]
) -> tuple[TokenClasses, dict[str, int]]:
    """The classes without those of `optional` with under `min_targets` positions, and how many each of these has."""
    available = {name: len(own) for name, own in _by_class(evaluation, classes, class_by).items()}
    sparse = {name: count for name, count in available.items() if name in optional and count < min_targets}
    kept = tuple(c for c in classes.classes if c.name not in sparse)
    return replace(classes, classes=kept), sparse


def _by_class(evaluation: EvaluationSet, classes: TokenClasses, class_by: str) -> dict[str, np.ndarray]:
    """Each class's kept positions, ascending: indices into the flattened windows."""
    tokens = evaluation.targets.ravel() if class_by == "target" else evaluation.windows.ravel()
    kept = np.flatnonzero(evaluation.kept.ravel())
    return {c.name: kept[c.types[tokens[kept]]] for c in classes.classes}


def _draw(name: str, available: np.ndarray, cap: int, seed: int) -> np.ndarray:
    if name == "rare" or len(available) <= cap:
        return available
    rng = stream(seed, "positions", name)
    return np.sort(rng.choice(available, size=cap, replace=False))
