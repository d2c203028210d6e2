"""Suites by name: `checkpoints.yaml`, a user's own file in the same form, a repository on the Hub, or a folder.

A suite is one model's training run as a series of checkpoints. Everything here is text and numbers: no weights are
opened, and of the Hub only names are asked for, by whoever calls.
"""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rtdyn.counted import counted
from rtdyn.errors import InputError, UsageError, near_matches
from rtdyn.suites.folder import folder_suite, found_in
from rtdyn.suites.forms import KNOWN, RevisionPattern, revision_pattern
from rtdyn.suites.suite import PACKAGE, STEP, SuiteSpec

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/([\w.-]+|[\w.*-]*\{step\}[\w.*-]*)", re.ASCII)
OnHub = Callable[[str, RevisionPattern], SuiteSpec]
"""Makes a suite of a repository on the Hub, OWNER/NAME, or of those that have their step in their names."""


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


def find_suite(
    model: str, suites: Mapping[str, SuiteSpec], on_hub: OnHub | None = None, pattern: RevisionPattern = KNOWN
) -> SuiteSpec:
    """The suite called `model`: a registered name or its repository, a folder of checkpoints, any repository.

    on_hub: without it no repository is looked for. pattern: a user's own for the names of the steps' folders or
    revisions; a registered suite's steps are then looked for anew. Raises UsageError for a name that means nothing.
    """
    suite = _named(model, suites)
    if suite is not None:
        return _steps_of(suite, on_hub, pattern)
    folder = Path(model)
    if folder.is_dir():
        return folder_suite(folder, pattern)
    near = near_matches(model, [*suites, *(s.repo for s in suites.values() if s.repo)])
    if on_hub is not None and _REPOSITORY.fullmatch(model):
        try:
            return on_hub(model, pattern)
        except InputError as error:
            raise InputError(
                f"no suite or folder is called {model!r}{near}, and no repository can be used: {error}"
            ) from error
    raise UsageError(f"no suite or folder is called {model!r}{near} (`rtdyn models` lists the suites)")


def find_suites(
    models: Sequence[str],
    suites: Mapping[str, SuiteSpec],
    on_hub: OnHub | None = None,
    pattern: RevisionPattern = KNOWN,
) -> tuple[tuple[SuiteSpec, ...], bool]:
    """The suites that `models` name, each once in the order given, and whether several were asked for.

    Beside what `find_suite` takes, there are patterns of `*`, `?` and `[...]`. One means every registered suite whose
    name or repository it matches. Matched against paths, it means every folder that holds folders of steps. What is
    there under the very name is meant by it: a suite, a folder, and the folders that a pattern begins with. Several
    were asked for where there are several, and by any pattern, whatever it matches today. Raises UsageError for a
    pattern that matches nothing.
    """
    chosen: dict[SuiteSpec, None] = {}
    globs = [
        m for m in models if glob.has_magic(m) and STEP not in m and _named(m, suites) is None and not Path(m).is_dir()
    ]
    for model in models:
        one = [] if model in globs else [find_suite(model, suites, on_hub, pattern)]
        chosen.update(dict.fromkeys(one or _matching(model, suites, on_hub, pattern)))
    return tuple(chosen), len(chosen) > 1 or bool(globs)


def _named(model: str, suites: Mapping[str, SuiteSpec]) -> SuiteSpec | None:
    return next((suite for suite in suites.values() if model in (suite.name, suite.repo)), None)


def _steps_of(suite: SuiteSpec, on_hub: OnHub | None, pattern: RevisionPattern) -> SuiteSpec:
    """A registered suite with its steps, which may have to be found; by a user's pattern, what it finds instead."""
    if suite.path is not None:
        return suite if pattern is KNOWN else folder_suite(suite.path, pattern)
    if on_hub is None or (pattern is KNOWN and not suite.pattern):
        return suite
    if pattern is not KNOWN:
        return on_hub(suite.hub_repo, pattern)
    found = on_hub(suite.hub_repo, revision_pattern(suite.pattern))
    return replace(
        suite,
        steps=found.steps,
        revision=found.revision,
        names=found.names,
        tokens=() if suite.tokens_per_step or suite.rates else found.tokens,
        among=found.among,
        branch=found.branch,
        note="; ".join(filter(None, (suite.note, found.note))),
    )


def registered(wanted: str, suites: Mapping[str, SuiteSpec]) -> list[SuiteSpec]:
    """The registered suites whose name or repository `wanted` matches. Raises UsageError if there is none."""
    named = _registered(wanted, suites)
    if not named:
        known = [*suites, *(s.repo for s in suites.values() if s.repo)]
        raise UsageError(f"no suite matches {wanted!r}{near_matches(wanted, known)} (`rtdyn models` lists them all)")
    return named


def _registered(wanted: str, suites: Mapping[str, SuiteSpec]) -> list[SuiteSpec]:
    return [s for s in suites.values() if any(fnmatch.fnmatchcase(n, wanted) for n in (s.name, s.repo) if n)]


def _matching(
    wanted: str, suites: Mapping[str, SuiteSpec], on_hub: OnHub | None, pattern: RevisionPattern
) -> list[SuiteSpec]:
    named = _registered(wanted, suites)
    if named:
        return [_steps_of(suite, on_hub, pattern) for suite in named]
    above = next(folder for folder in Path(wanted).parents if folder.is_dir())
    below = str(Path(wanted).relative_to(above))
    found = glob.glob(below, root_dir=above)  # noqa: PTH207 -- Path.glob finds hidden folders too
    paths = sorted((above / path for path in found), key=str)
    folders = [path for path in paths if path.is_dir()]
    holding = [folder_suite(folder, pattern) for folder in folders if found_in(folder, pattern)]
    if folders and not holding:
        raise UsageError(
            f"none of {counted(len(folders), 'folder')} matching {wanted!r} holds step*/ folders or the like; "
            "a pattern names folders of suites, not of steps"
        )
    if not holding:
        known = [*suites, *(s.repo for s in suites.values() if s.repo)]
        raise UsageError(
            f"no suite or folder matches {wanted!r}{near_matches(wanted, known)} (`rtdyn models` lists the suites)"
        )
    return holding
