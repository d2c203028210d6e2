"""Any repository of the Hub as a suite: its steps are found among the names of its branches and tags."""

from __future__ import annotations

import re

from rtdyn.errors import UsageError
from rtdyn.hub.repository import hub_is_offline, hub_refs
from rtdyn.suites.found import Found, found_among
from rtdyn.suites.suite import SuiteSpec

_SHOWN = 12


def suite_on_hub(repo: str, pattern: re.Pattern[str] | None = None) -> SuiteSpec:
    """The suite of the repository's branches and tags, which are asked for once; nothing else is.

    pattern: a user's own for their names. Raises UsageError if no name is a step's, InputError if the Hub cannot
    be asked.
    """
    if hub_is_offline():
        raise UsageError(f"{repo} is no registered suite and no folder, and HF_HUB_OFFLINE is set; unset it")
    refs = hub_refs(repo)
    found = found_among(refs, pattern)
    if found is None:
        shown = ", ".join(refs[:_SHOWN]) + (f" and {len(refs) - _SHOWN} more" if len(refs) > _SHOWN else "")
        why = f"{pattern.pattern!r} matches none as a whole" if pattern else "none looks like a step's"
        raise UsageError(f"{repo} has the branches and tags {shown}, and {why}; name the steps by --revision-pattern")
    return SuiteSpec(
        name=repo.rpartition("/")[2],
        steps=tuple(found.names),
        revision=found.run,
        path=None,
        repo=repo,
        tokens_per_step=None,
        family=None,
        corpus="king-james",
        frequencies="corpus",
        note=f"found among {len(refs)} branches and tags: {found.what}",
        defects=(),
        names=tuple(found.names.values()),
        tokens=_tokens(found),
    )


def _tokens(found: Found) -> tuple[int, ...]:
    """Tokens at each step where the names count nothing else; of names that give both, only the step is exact."""
    return tuple(number * found.unit for number in found.names) if found.unit is not None and found.are_tokens else ()
