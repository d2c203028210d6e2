"""A folder of checkpoints as a suite, whatever wrote it."""

from __future__ import annotations

import json
from pathlib import Path

from rtdyn.errors import InputError, UsageError
from rtdyn.suites.forms import BY_CHANCE, KNOWN, RevisionPattern, read_name
from rtdyn.suites.found import Found, found_among
from rtdyn.suites.suite import COMMITS, SuiteSpec

_PLAIN = "step{step}"
_CONFIG, _STATE = "config.json", "trainer_state.json"
_COUNTS = ("token_counts.npy", "token_counts.parquet")


def found_in(folder: Path, pattern: RevisionPattern = KNOWN) -> Found | None:
    """The steps among the folders in a folder, None if there are none. Raises UsageError for a pattern of commits."""
    if pattern.among == COMMITS:
        raise UsageError(f"{folder} is a folder and has no commits; give a pattern of its folders' names")
    names = (child.name for child in folder.iterdir() if child.is_dir())
    return found_among(names, pattern.regex, by_chance=False, pass_over=pattern.pass_over)


def folder_suite(folder: Path, pattern: RevisionPattern = KNOWN) -> SuiteSpec:
    """The suite in a folder: the checkpoints of the run that most of its folders are of, or the one model it holds.

    pattern: a user's own for the folders' names. Raises InputError if the folder holds neither.
    """
    found = found_in(folder, pattern)
    if found is None and pattern.regex is None and (folder / _CONFIG).is_file():
        return _suite(folder, (_own_step(folder),), ".", (".",), "one model; trajectories and claims need three steps")
    if found is None:
        raise InputError(_nothing_found(folder, pattern))
    steps, names = tuple(found.names), tuple(found.names.values())
    if all(name == _PLAIN.format(step=step) for step, name in found.names.items()) and pattern.regex is None:
        names = ()
    beside = "; the model beside them is left out" if (folder / _CONFIG).is_file() else ""
    return _suite(folder, steps, found.run, names, found.what + beside if names else "a folder of checkpoints")


def _suite(folder: Path, steps: tuple[int, ...], revision: str, names: tuple[str, ...], note: str) -> SuiteSpec:
    tokens = tuple(_tokens_seen(folder / name) for name in names)
    return SuiteSpec(
        name=folder.resolve().name,
        steps=steps,
        revision=revision,
        path=folder.resolve(),
        repo=None,
        tokens_per_step=None,
        family=None,
        corpus="king-james",
        frequencies=next((name for name in _COUNTS if (folder / name).is_file()), "corpus"),
        note=note,
        defects=(),
        names=names,
        tokens=tokens if any(seen is not None for seen in tokens) else (),
    )


def _nothing_found(folder: Path, pattern: RevisionPattern) -> str:
    inside = sorted(child.name for child in folder.iterdir() if child.is_dir())
    named = f"; its folders are {', '.join(inside[:6])}{' and more' if len(inside) > 6 else ''}" if inside else ""
    if pattern.regex is not None:
        return f"no folder in {folder} has a name that {pattern.regex.pattern!r} matches as a whole{named}"
    return (
        f"{folder} holds no step*/ folders, no checkpoint-*/ or the like, and is no model itself (config.json and "
        f"weights){named}; name the folders by --revision-pattern"
    )


def _own_step(folder: Path) -> int:
    """The step of a folder that is one checkpoint: as its name has it, else its trainer; 0 where neither knows."""
    name = read_name(folder.resolve().name)
    if name is not None and name.step is not None and name.form not in BY_CHANCE:
        return name.step
    step = _state(folder).get("global_step")
    return step if isinstance(step, int) and step >= 0 else 0


def _tokens_seen(folder: Path) -> int | None:
    """Training tokens by the step's time as the Trainer counted them; it writes 0 where it was not to count."""
    seen = _state(folder).get("num_input_tokens_seen")
    return seen if isinstance(seen, int) and not isinstance(seen, bool) and seen > 0 else None


def _state(folder: Path) -> dict[str, object]:
    """The state that transformers' Trainer left beside the weights; empty where there is none that can be read."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):  # a trainer's own file: the model is read without it
        return {}
    return state if isinstance(state, dict) else {}
