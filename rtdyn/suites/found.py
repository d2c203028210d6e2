"""A training run found among names: of all the runs that the names are of, the one with most checkpoints."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rtdyn.errors import UsageError
from rtdyn.suites.forms import BY_CHANCE, FORMS, Name, read_by, read_name

_FIRST_STAGE = "stage1-"
_UNITS = (10**12, 10**9, 10**6, 10**3, 1)
_SHOWN = 6


@dataclass(frozen=True)
class Found:
    """The checkpoints of one run, and what else there is."""

    run: str
    """Their names, with `{step}` or `{tokens}` in the place of the number that orders them."""
    names: Mapping[int, str]
    """The name of each by its number, ascending."""
    unit: int | None
    """What the numbers count, if no step: so many tokens each, or so many of what the names do not say."""
    are_tokens: bool
    """Whether they are of tokens: a name such as `593B` does not say of what."""
    left_out: Mapping[str, int]
    """How many further names each run has, most first."""
    unread: tuple[str, ...]
    """Names that are of no run."""

    @property
    def what(self) -> str:
        """What was taken and what was left out, in a clause."""
        told = f"{len(self.names)} of the form {self.run}"
        if self.unit is not None:
            told += f" in units of {self.unit:,}{' tokens' if self.are_tokens else ', the names do not say of what'}"
        others = [*(f"{count} of the form {run}" for run, count in self.left_out.items()), *self.unread]
        if others:
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            told += f"; left out: {', '.join(others[:_SHOWN])}{more}"
        return told


def found_among(
    names: Iterable[str],
    pattern: re.Pattern[str] | None = None,
    by_chance: bool = True,
    pass_over: Callable[[str], None] | None = None,
) -> Found | None:
    """The run that most of the names are of, None if none is of any.

    pattern: a user's own in place of the known forms. by_chance: whether forms count that names have by chance; they
    need two names. Names with and without `stage1-` are of one run. Of two names for one number that with `stage1-` is
    taken, else the shorter. pass_over: told of names that a user's pattern reads wrongly, which are then of no run.
    Without it they raise UsageError: what is no number, two names of one number, steps beside tokens.
    """
    texts = sorted(set(names))
    read = [name for text in texts if (name := _read(pattern, text, pass_over) if pattern else read_name(text))]
    runs: dict[str, list[Name]] = defaultdict(list)
    for name in read:
        if by_chance or name.form not in BY_CHANCE:
            runs[name.run].append(name)
    for run in [run for run in runs if _FIRST_STAGE + run in runs]:
        runs[_FIRST_STAGE + run] += runs.pop(run)
    runs = {run: of for run, of in runs.items() if of[0].form not in BY_CHANCE or len(of) > 1}
    if not runs:
        return None
    forms = list(FORMS)
    best = min(runs, key=lambda run: (-len(runs[run]), forms.index(runs[run][0].form) if not pattern else 0, run))
    unit, taken = _numbered(runs[best], pattern, pass_over or _refuse)
    chosen = {name.text for name in taken.values()}
    left: dict[str, int] = {run: len(of) for run, of in runs.items() if run != best}
    if len(runs[best]) > len(taken):
        left[f"{best} with a number that is taken already"] = len(runs[best]) - len(taken)
    known = {name.text for of in runs.values() for name in of}
    return Found(
        run=best,
        names={number: taken[number].text for number in sorted(taken)},
        unit=unit,
        are_tokens=unit is not None and runs[best][0].form != "amount",
        left_out=dict(sorted(left.items(), key=lambda item: -item[1])),
        unread=tuple(text for text in texts if text not in known and text not in chosen),
    )


def _refuse(fault: str) -> None:
    raise UsageError(fault)


def _read(pattern: re.Pattern[str], text: str, pass_over: Callable[[str], None] | None) -> Name | None:
    try:
        return read_by(pattern, text)
    except UsageError as error:
        (pass_over or _refuse)(str(error))
        return None


def _numbered(
    names: list[Name], pattern: re.Pattern[str] | None, at_fault: Callable[[str], None]
) -> tuple[int | None, dict[int, Name]]:
    """The unit of the names' numbers, None if they are steps, and the name of each number."""
    unit = None
    if without := [name for name in names if name.step is None]:
        if len(without) < len(names):
            at_fault(f"the pattern finds a step in some names and none in others, such as {without[0].text!r}")
            return _numbered([name for name in names if name.step is not None], pattern, at_fault)
        amounts = [name.tokens or 0 for name in names]
        unit = next(size for size in _UNITS if all(amount % size == 0 for amount in amounts))
    taken: dict[int, Name] = {}
    for name in sorted(names, key=lambda n: (not n.text.startswith(_FIRST_STAGE), len(n.text), n.text)):
        number = name.step if name.step is not None else (name.tokens or 0) // (unit or 1)
        if pattern is not None and number in taken:
            both = f"{taken[number].text!r} and {name.text!r}"
            at_fault(f"the pattern gives {both} one number; narrow it, or name the group that tells them apart")
        taken.setdefault(number, name)
    return unit, taken
