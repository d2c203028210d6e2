"""Any repository of the Hub as a suite: its steps are found among names, and nothing but names is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from rtdyn.errors import UsageError
from rtdyn.hub.listings import hub_commits, hub_folders, hub_refs, hub_repositories
from rtdyn.hub.repository import hub_is_offline
from rtdyn.suites.forms import KNOWN, RevisionPattern
from rtdyn.suites.found import Found, found_among
from rtdyn.suites.suite import COMMITS, REFS, REPOSITORIES, STEP, SUBFOLDERS, SuiteSpec

_SHOWN = 12
_WORDS = {
    REFS: "branches and tags",
    SUBFOLDERS: "folders with a config.json",
    COMMITS: "titles of commits",
    REPOSITORIES: "repositories",
}


def suite_on_hub(repo: str, pattern: RevisionPattern = KNOWN) -> SuiteSpec:
    """The suite of a repository's branches and tags, or what else the pattern says, asked for once.

    repo: OWNER/NAME; with `{step}` in NAME, in which `*` may stand for anything, each step is a repository. Raises
    UsageError if no name is a step's, InputError if the Hub cannot be asked.
    """
    if hub_is_offline():
        raise UsageError(
            f"the steps of {repo} are to be found on the Hub, and HF_HUB_OFFLINE is set; unset it, or list "
            "the steps in a suites file"
        )
    if STEP in repo:
        pattern = RevisionPattern(_of_repositories(repo), REPOSITORIES)
    names = _listed(repo, pattern)
    found = found_among(names, pattern.regex, pass_over=pattern.pass_over)
    if found is not None and pattern.among == REPOSITORIES:
        found = replace(found, run=repo)
    where = "" if pattern.among in (REFS, REPOSITORIES) else f" of {pattern.branch}"
    if found is None:
        shown = ", ".join([*names][:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        why = f"{pattern.regex.pattern!r} matches none as a whole" if pattern.regex else "none looks like a step's"
        raise UsageError(
            f"{repo} has the {_WORDS[pattern.among]}{where} {shown or '(none)'}, and {why}; name the steps by "
            "--revision-pattern, which also takes subfolder: and commits:"
        )
    return SuiteSpec(
        name=re.sub(r"[^\w.-]+", "", repo.rpartition("/")[2]),
        steps=tuple(found.names),
        revision=found.run + where,
        path=None,
        repo=repo,
        tokens_per_step=None,
        family=None,
        corpus="king-james",
        frequencies="corpus",
        note=f"found among {len(names)} {_WORDS[pattern.among]}{where}: {found.what}",
        defects=(),
        names=tuple(names[name] for name in found.names.values()),
        among=pattern.among,
        branch=pattern.branch,
        tokens=_tokens(found),
    )


def _listed(repo: str, pattern: RevisionPattern) -> Mapping[str, str]:
    """The names to look among, each with what the step is then asked for by."""
    if pattern.among == COMMITS:
        return hub_commits(repo, pattern.branch)
    if pattern.among == SUBFOLDERS:
        names = hub_folders(repo, pattern.branch)
    elif pattern.among == REPOSITORIES:
        owner, _, name = repo.partition("/")
        names = hub_repositories(owner, max(re.split(r"\{step\}|\*", name), key=len))
    else:
        names = hub_refs(repo)
    return {name: name for name in names}


def _of_repositories(repo: str) -> re.Pattern[str]:
    """The pattern of the repositories' names; a step may be in thousands, as in `step_20k`."""
    parts = re.split(r"(\{step\}|\*)", repo)
    return re.compile(
        "".join({STEP: r"(?P<step>[0-9]+)(?P<unit>[kK]?)", "*": ".*"}.get(p, re.escape(p)) for p in parts)
    )


def _tokens(found: Found) -> tuple[int, ...]:
    """Tokens at each step where the names count nothing else; of names that give both, only the step is exact."""
    return tuple(number * found.unit for number in found.names) if found.unit is not None and found.are_tokens else ()
