"""From the options of a command line to what they ask of each suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rtdyn.hub.suite_on_hub import suite_on_hub
from rtdyn.suites.find import find_suites, load_suites
from rtdyn.suites.forms import RevisionPattern
from rtdyn.suites.steps import parse_steps

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from rtdyn.suites.suite import SuiteSpec
    from rtdyn.sweep.job import Job

    T = TypeVar("T", bound=DataclassInstance)


def jobs_of(
    models: Sequence[str],
    pattern: RevisionPattern,
    steps: str,
    suites: Path | None,
    options: Mapping[str, Any],
    say: Callable[[str], None],
) -> tuple[tuple[Job, ...], bool]:
    """A job for each suite that `models` name, and whether several were asked for.

    pattern: of --revision-pattern. options: by the names of the dataclasses' fields; a field with a default may be
    lacking. say: told where steps were found that no suites file lists. Raises UsageError and InputError for models and
    steps that do not exist, before anything large is imported.
    """
    known = load_suites(suites)
    found, several = find_suites(models, known, suite_on_hub, pattern)
    for suite in (s for s in found if s.names):
        say(f"{suite.name}: {suite.note}")
    chosen = {
        suite: parse_steps(steps, suite.steps, f"{suite.name}: " if several else "", suite.unsound) for suite in found
    }
    from rtdyn.analyses.options import StepOptions
    from rtdyn.sweep.cluster_options import ClusterOptions
    from rtdyn.sweep.job import Job
    from rtdyn.text.options import EvaluationOptions

    settings = {
        "measured_on": filled(EvaluationOptions, options),
        "options": filled(StepOptions, options),
        "cluster": filled(ClusterOptions, options),
    }

    def job(suite: SuiteSpec, own: tuple[int, ...]) -> Job:
        kept = {**options.get("settings", {}), **({"model": _as_given(suite, known)} if several else {})}
        return filled(Job, {**options, **settings, "suite": suite, "steps": own, "settings": kept})

    return tuple(job(suite, own) for suite, own in chosen.items()), several


def _as_given(suite: SuiteSpec, known: Mapping[str, SuiteSpec]) -> str:
    """What --model calls one suite of several."""
    return suite.name if known.get(suite.name) == suite else suite.location


def filled(kind: type[T], options: Mapping[str, Any]) -> T:
    """The dataclass made of the options that have its fields' names."""
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
