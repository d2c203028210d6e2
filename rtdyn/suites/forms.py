"""Names that training runs give their checkpoints, branches and tags as folders: known forms, and a user's own pattern.

A name is read into the number that orders the run, which is a step or, where no step is named, a number of tokens. What
else it says tells one run from another: the stage, the ingredient, the seed, and any further word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from rtdyn.errors import UsageError
from rtdyn.suites.suite import COMMITS, MAIN, REFS, SUBFOLDERS

_STEP = r"(?P<step>\d{1,15})"
_TOKENS = r"(?P<tokens>\d{1,15}(?:\.\d{1,3})?)(?P<unit>BT|[KMBTkmbt])"
_STAGE = r"(?:stage(?P<stage>\d+)-)?(?:ingredient(?P<ingredient>\d+)-)?"
_WORDS = r"(?P<words>[A-Za-z][\w.]*(?:-[\w.]+)*?)[-_]"
_AFTER = rf"(?:-(?:tokens)?{_TOKENS})?(?:-seed-?(?P<seed>[A-Za-z0-9-]+))?"
_UNITS: Mapping[str, int] = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "BT": 10**9, "T": 10**12}
_ORDER = ("step", "tokens", "unit")
"""Groups that place a checkpoint within its run; all others tell runs apart."""
_PLACE = re.compile(rf"(?P<among>{REFS}|{SUBFOLDERS}|{COMMITS})(?:@(?P<branch>[^:]+))?:")
_EXAMPLE = r"such as 'my-run-(?P<step>\d+)'"

FORMS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.ASCII)
    for name, pattern in {
        "step": rf"{_STAGE}step[-_]?{_STEP}{_AFTER}",
        "global step": rf"global_?step[-_]?{_STEP}",
        "checkpoint": rf"(?:checkpoint|ckpt)[-_]?{_STEP}(?:step)?",
        "iteration": rf"iter(?:ation)?[-_]?{_STEP}",
        "step of a part": rf"{_STAGE}{_WORDS}(?:step|checkpoint|ckpt)[-_]?{_STEP}{_AFTER}",
        "tokens": rf"{_TOKENS}_(?P<said>tokens)",
        "amount": rf"(?:(?P<words>[A-Za-z][A-Za-z-]*)[-_])?{_TOKENS}",
        "number": _STEP,
    }.items()
}
"""The forms that are known, by name; the first that fits a name reads it."""
BY_CHANCE = ("tokens", "amount", "number")
"""Forms that a name may have without being a checkpoint's."""


@dataclass(frozen=True)
class Name:
    """What the name of a checkpoint says."""

    text: str
    form: str
    """A key of `FORMS`; empty where a user's pattern read it."""
    run: str
    """The name with `{step}` and `{tokens}` in the places of its numbers: alike for the checkpoints of one run."""
    step: int | None
    tokens: int | None
    """As the name rounds them, mostly up; None if it gives none. Of the form `amount` they may be anything's."""
    within: int = 0
    """How far off they may be: one in the last place that the name gives."""


def read_name(text: str) -> Name | None:
    """What a name of a known form says, None for any other; of a path the last part is read."""
    above, slash, last = text.rpartition("/")
    for form, pattern in FORMS.items():
        if match := pattern.fullmatch(last):
            name = _read(match, form, _with_gaps(match))
            return replace(name, text=text, run=above + slash + name.run)
    return None


def read_by(pattern: re.Pattern[str], text: str) -> Name | None:
    """What a name says that a user's pattern matches as a whole, None for any other.

    Raises UsageError if its step or its tokens are no number.
    """
    match = pattern.fullmatch(text)
    if match is None:
        return None
    apart = {group: said for group, said in match.groupdict().items() if group not in _ORDER and said is not None}
    told = ", ".join(f"{group} {said}" for group, said in apart.items())
    return _read(match, "", pattern.pattern + (f" with {told}" if told else ""))


@dataclass(frozen=True)
class RevisionPattern:
    """Where a user has the steps looked for, and by which names."""

    regex: re.Pattern[str] | None = None
    """Of whole names; None for the known forms."""
    among: str = REFS
    branch: str = MAIN
    """Whose folders or commits are meant."""
    pass_over: Callable[[str], None] | None = field(default=None, compare=False)
    """Told of names that the regex reads wrongly, which are then no steps; without it they are refused."""

    def __str__(self) -> str:
        """As one types it, which `revision_pattern` reads again."""
        expression = "" if self.regex is None else self.regex.pattern
        place = "" if self.among == REFS else f"{self.among}{'' if self.branch == MAIN else f'@{self.branch}'}:"
        return place + expression


KNOWN = RevisionPattern()
"""Branches and tags by the known forms, where no pattern is given."""


def revision_pattern(text: str) -> RevisionPattern:
    """What a user's pattern says: `[refs:]REGEX`, `subfolder[@BRANCH]:[REGEX]` or `commits[@BRANCH]:REGEX`.

    Raises UsageError if it is no regular expression, or names no group that orders the checkpoints.
    """
    place = _PLACE.match(text)
    expression = text[place.end() :] if place else text
    among, branch = (place["among"], place["branch"] or MAIN) if place else (REFS, MAIN)
    if place and among != COMMITS and not expression:
        return RevisionPattern(None, among, branch)
    try:
        regex = re.compile(expression)
    except re.error as error:
        raise UsageError(f"{expression!r} is no regular expression ({error}); give one {_EXAMPLE}") from None
    if not {"step", "tokens"} & regex.groupindex.keys():
        raise UsageError(f"the pattern {expression!r} has no group called step or tokens; give one {_EXAMPLE}")
    return RevisionPattern(regex, among, branch)


def _read(match: re.Match[str], form: str, run: str) -> Name:
    groups = match.groupdict()
    step, tokens, unit = groups.get("step"), groups.get("tokens"), (groups.get("unit") or "").upper()
    if step is None and tokens is None:
        raise UsageError(f"the pattern finds neither step nor tokens in {match.string!r}; give one {_EXAMPLE}")
    if step is not None and not re.fullmatch("[0-9]{1,15}", step):
        raise UsageError(f"the pattern finds the step {step!r} in {match.string!r}; it must be a whole number")
    size = _UNITS.get(unit)
    if step is not None and tokens is None and size is not None:
        return Name(match.string, form, run, int(step) * size, None)  # as in `step-20k`
    tokens = tokens or ""
    if size is None or not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", tokens) or Decimal(tokens) * size % 1:
        raise UsageError(
            f"the pattern finds {tokens + unit!r} tokens in {match.string!r}; give digits and K, M, B or T"
        )
    decimals = len(tokens.partition(".")[2])
    within = size // 10**decimals
    return Name(match.string, form, run, None if step is None else int(step), int(Decimal(tokens) * size), within)


def _with_gaps(match: re.Match[str]) -> str:
    """The name with what orders it replaced by its groups' names."""
    groups, text = match.groupdict(), match.string
    gaps = [(*match.span("step"), "{step}")] if groups.get("step") is not None else []
    if groups.get("tokens") is not None:
        gaps.append((match.start("tokens"), match.end("unit"), "{tokens}"))
    for start, stop, gap in sorted(gaps, reverse=True):
        text = text[:start] + gap + text[stop:]
    return text
