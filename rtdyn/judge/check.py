"""Whether a run still gives the numbers of a committed baseline; what moved, by how much, and why that fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rtdyn.errors import InputError
from rtdyn.judge.baseline import COLUMNS, Baseline, Kind, Rule, baseline_of, read_baseline, write_baseline
from rtdyn.judge.observations import read_judged
from rtdyn.judge.tolerances import DEFAULT_RULES
from rtdyn.store.run import differing_settings

FREE_SETTINGS = ("rtdyn", "location")
"""Settings that may differ: the version is what a check is for, and the same suite may lie in another folder."""
TIGHT = 0.01
"""Share of a number that a rule has to notice if the number counts as held."""

Change = Literal["missing step", "new step", "missing", "new", "undefined", "defined", "moved", "no rule"]


@dataclass(frozen=True)
class Finding:
    """One difference from the baseline that its rules do not allow."""

    change: Change
    step: int
    metric: str
    """The row's name; empty where a whole step is missing or new."""
    column: str
    """Of metrics/; empty where the whole row is concerned."""
    baseline: float | None
    value: float | None
    why: str
    excess: float = math.inf
    """How many times the allowed distance the number lies away from the middle of what is allowed."""


@dataclass(frozen=True)
class Comparison:
    """A run against its baseline."""

    suite: str
    findings: tuple[Finding, ...]
    """First whole rows, then the numbers that moved, the farthest beyond its tolerance first."""
    rows: tuple[tuple[int, str], ...]
    """Every row compared, by step and name."""
    held: dict[str, int]
    """How many numbers were held to less than 1 % of themselves (`tight`), and how many by wider rules of each kind."""
    notes: tuple[str, ...]
    """What differs and is no finding: weights, versions, rules that match nothing."""


def compare(baseline: Baseline, now: Baseline) -> Comparison:
    """Every stored number of `now` against the baseline's rules.

    Raises InputError if the two are of different suites or settings, whose numbers are not to be compared.
    """
    _refuse_other_settings(baseline, now)
    findings: list[Finding] = []
    compared: list[tuple[int, str]] = []
    held: dict[str, int] = {}
    used: set[int] = set()
    for step in sorted({*baseline.rows, *now.rows}):
        if step not in now.rows or step not in baseline.rows:
            findings.append(_step_finding(step, step in now.rows))
            continue
        theirs, ours = baseline.rows[step], now.rows[step]
        for name in {**theirs, **ours}:
            compared.append((step, name))
            if name not in ours or name not in theirs:
                findings.append(_row_finding(step, name, theirs.get(name), ours.get(name)))
                continue
            for column in COLUMNS:
                number, value = theirs[name].get(column), ours[name].get(column)
                if number is None and value is None:
                    continue
                if number is None or value is None:
                    findings.append(_definition_finding(step, name, column, theirs[name], ours[name]))
                    continue
                covering = _covering(baseline.rules, name, column, theirs[name])
                if covering is None:
                    why = "no tolerance of the baseline covers it; add one to the file"
                    findings.append(Finding("no rule", step, name, column, number, value, why))
                    continue
                used.add(covering)
                rule = baseline.rules[covering]
                kind = _strength(rule, number, theirs[name])
                held[kind] = held.get(kind, 0) + 1
                findings += _moved(step, name, column, number, value, rule, theirs[name])
    findings.sort(key=lambda f: -f.excess)
    return Comparison(now.suite, tuple(findings), tuple(compared), held, tuple(_notes(baseline, now, used)))


def _refuse_other_settings(baseline: Baseline, now: Baseline) -> None:
    differing = differing_settings(baseline.config, now.config)
    held = [words for key, words in differing.items() if key not in FREE_SETTINGS]
    if held:
        raise InputError(
            f"the baseline was made with other settings: {', '.join(held)}; check a run with the same settings, "
            "or write the baseline anew with --update"
        )


def _step_finding(step: int, is_new: bool) -> Finding:
    why = "the baseline has no such step" if is_new else "the run has not stored this step"
    return Finding("new step" if is_new else "missing step", step, "", "", None, None, why)


def _row_finding(step: int, name: str, theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> Finding:
    if theirs is None:
        value = None if ours is None else ours.get("value")
        return Finding("new", step, name, "", None, value, "the baseline has no such row")
    return Finding("missing", step, name, "", theirs.get("value"), None, "the run has no such row")


def _definition_finding(
    step: int, name: str, column: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> Finding:
    number, value = theirs.get(column), ours.get(column)
    if value is None:
        why = f"undefined now: {ours['reason']}" if "reason" in ours else "empty now"
        return Finding("undefined", step, name, column, number, None, why)
    why = f"defined now; before: {theirs['reason']}" if "reason" in theirs else "empty before"
    return Finding("defined", step, name, column, None, value, why)


def _covering(rules: tuple[Rule, ...], name: str, column: str, row: Mapping[str, Any]) -> int | None:
    return next((i for i, rule in enumerate(rules) if rule.covers(name, column, row)), None)


def _strength(rule: Rule, number: float, row: Mapping[str, Any]) -> str:
    """`tight` if a change by 1 % either way would be found, else the rule's kind."""
    low, high = rule.range(number, row)
    change = TIGHT * (abs(number) or 1.0)
    is_tight = rule.kind == "exact" or (number - change < low and number + change > high)
    return "tight" if is_tight else rule.kind


def _moved(
    step: int, name: str, column: str, number: float, value: float, rule: Rule, row: Mapping[str, Any]
) -> Iterator[Finding]:
    low, high = rule.range(number, row)
    if low <= value <= high:
        return
    middle, room = (low + high) / 2, (high - low) / 2
    excess = abs(value - middle) / room if 0 < room < math.inf else math.inf
    yield Finding("moved", step, name, column, number, value, _reason(rule, low, high, number, value), excess)


def _reason(rule: Rule, low: float, high: float, number: float, value: float) -> str:
    share = f" ({(value - number) / abs(number):+.2g} of itself)" if number else ""
    moved = f"moved by {value - number:+.3g}{share}"
    allowed: dict[Kind, str] = {
        "exact": "must not move",
        "close": f"may move by {(high - low) / 2:.3g}",
        "bounds": f"must lie in {low:g} to {high:g}",
        "interval": f"must lie in the baseline's interval, {low:.4g} to {high:.4g}",
    }
    return f"{moved}; {allowed[rule.kind]}"


def _notes(baseline: Baseline, now: Baseline, used: set[int]) -> Iterator[str]:
    common = baseline.rows.keys() & now.rows.keys()
    changed = sorted(step for step in common if baseline.weights.get(step) != now.weights.get(step))
    if changed:
        yield f"the weights of step {', '.join(map(str, changed))} are not those of the baseline"
    for package in sorted({*baseline.versions, *now.versions}):
        before, after = (b.versions.get(package, "none") for b in (baseline, now))
        if before != after:
            yield f"{package} {after}; the baseline was made with {before}"
    for number, rule in enumerate(baseline.rules):
        if number not in used and rule not in DEFAULT_RULES:
            yield f"tolerance {number + 1} ({rule.metric}, {rule.kind}) applies to no number of this run"


def check(run: Path, file: Path, update: bool) -> Comparison:
    """`rtdyn check`: the run at `run` against the baseline in `file`; with `update`, against the one it writes there.

    An updated baseline keeps the tolerances of the file; those of DEFAULT_RULES go into a new one. Raises InputError
    if either cannot be used or they do not compare.
    """
    old = None if update and not file.exists() else read_baseline(file)
    now = baseline_of(read_judged(run), DEFAULT_RULES if old is None else old.rules)
    if update:
        write_baseline(file, now)
    return compare(now if update or old is None else old, now)
