"""Suites by name: `checkpoints.yaml`, a user's own file in the same form, or a folder of `step*/`.

A suite is one model's training run as a series of checkpoints. Everything here is text and numbers:
nothing is downloaded and no weights are opened.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from rtdyn.errors import InputError, UsageError, near_matches
from rtdyn.suites.steps import steps_in
from rtdyn.suites.suite import PACKAGE, SuiteSpec


def load_suites(extra: Path | None = None) -> dict[str, SuiteSpec]:
    """Every suite of the shipped file, and those of a user's file, which may replace them.

    Raises InputError that names the file and the entry when either is malformed.
    """
    # with pydantic, which takes its time: only the commands that read suites are to wait for it
    from rtdyn.suites.suites_file import read_suites_file, suites_of

    shipped = next(p for p in (PACKAGE / "checkpoints.yaml", PACKAGE.parent / "checkpoints.yaml") if p.is_file())
    records = read_suites_file(shipped)
    suites = suites_of(records, shipped, PACKAGE)
    if extra is not None:
        more = read_suites_file(extra)
        shared = {
            section: {**getattr(records, section), **getattr(more, section)}
            for section in ("schedules", "shapes", "texts")
        }
        suites.update(suites_of(more.model_copy(update=shared), extra, extra.parent))
    return suites


def find_suite(model: str, suites: Mapping[str, SuiteSpec]) -> SuiteSpec:
    """The suite called `model`: a registered name, its Hub repository, or a folder of `step*/` folders."""
    suite = _named(model, suites)
    if suite is not None:
        return suite
    folder = Path(model)
    if folder.is_dir():
        return _folder_suite(folder)
    known = [*suites, *(s.repo for s in suites.values() if s.repo)]
    raise UsageError(
        f"no suite or folder is called {model!r}{near_matches(model, known)} (`rtdyn models` lists the suites)"
    )


def find_suites(models: Sequence[str], suites: Mapping[str, SuiteSpec]) -> tuple[tuple[SuiteSpec, ...], bool]:
    """The suites that `models` name, each once in the order given, and whether several were asked for.

    Beside what `find_suite` takes, a pattern of `*`, `?` and `[...]` means every registered suite whose name or
    repository it matches, or, matched against paths, every folder that holds `step*/` folders. What is there under the
    very name is meant by it: a suite, a folder, and the folders that a pattern begins with. Several were asked for
    where there are several, and by any pattern, whatever it matches today. Raises UsageError for a pattern that
    matches nothing.
    """
    chosen: dict[SuiteSpec, None] = {}
    patterns = [m for m in models if glob.has_magic(m) and _named(m, suites) is None and not Path(m).is_dir()]
    for model in models:
        chosen.update(dict.fromkeys(_matching(model, suites) if model in patterns else [find_suite(model, suites)]))
    return tuple(chosen), len(chosen) > 1 or bool(patterns)


def _named(model: str, suites: Mapping[str, SuiteSpec]) -> SuiteSpec | None:
    return next((suite for suite in suites.values() if model in (suite.name, suite.repo)), None)


def _matching(pattern: str, suites: Mapping[str, SuiteSpec]) -> list[SuiteSpec]:
    named = [s for s in suites.values() if any(fnmatch.fnmatchcase(n, pattern) for n in (s.name, s.repo) if n)]
    if named:
        return named
    above = next(folder for folder in Path(pattern).parents if folder.is_dir())
    below = str(Path(pattern).relative_to(above))
    found = glob.glob(below, root_dir=above)  # noqa: PTH207 -- Path.glob finds hidden folders too
    paths = sorted((above / path for path in found), key=str)
    folders = [path for path in paths if path.is_dir()]
    holding = [_folder_suite(folder) for folder in folders if steps_in(folder)]
    if folders and not holding:
        raise UsageError(
            f"none of the {len(folders)} folders that match {pattern!r} holds step*/ folders; "
            "a pattern names the folders of suites, not those of their steps"
        )
    if not holding:
        known = [*suites, *(s.repo for s in suites.values() if s.repo)]
        raise UsageError(
            f"no suite or folder matches {pattern!r}{near_matches(pattern, known)} (`rtdyn models` lists the suites)"
        )
    return holding


def _folder_suite(folder: Path) -> SuiteSpec:
    steps = steps_in(folder)
    if not steps:
        raise InputError(
            f"{folder} holds no step*/ folders; a suite is a folder of step<N>/ folders, "
            "each with config.json and weights"
        )
    counts = next((n for n in ("token_counts.npy", "token_counts.parquet") if (folder / n).is_file()), "corpus")
    return SuiteSpec(
        name=folder.resolve().name,
        steps=tuple(steps),
        revision="step{step}",
        path=folder.resolve(),
        repo=None,
        tokens_per_step=None,
        family=None,
        corpus="king-james",
        frequencies=counts,
        note="a folder of checkpoints",
        defects=(),
    )
