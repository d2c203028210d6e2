"""From the options of a command line to what they ask of each suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rtdyn.suites.find import find_suites, load_suites
from rtdyn.suites.steps import parse_steps

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from rtdyn.suites.suite import SuiteSpec
    from rtdyn.sweep.job import Job

    T = TypeVar("T", bound=DataclassInstance)


def jobs_of(
    models: Sequence[str], steps: str, suites: Path | None, options: Mapping[str, Any]
) -> tuple[tuple[Job, ...], bool]:
    """A job for each suite that `models` name, and whether several were asked for.

    options: by the names of the dataclasses' fields; a field with a default may be lacking. Raises UsageError and
    InputError for models and steps that do not exist, before anything large is imported.
    """
    known = load_suites(suites)
    found, several = find_suites(models, known)
    chosen = {
        suite: parse_steps(steps, suite.steps, f"{suite.name}: " if several else "", suite.unsound) for suite in found
    }
    from rtdyn.analyses.options import StepOptions
    from rtdyn.sweep.cluster_options import ClusterOptions
    from rtdyn.sweep.job import Job
    from rtdyn.text.evaluation import EvaluationOptions

    settings = {
        "measured_on": _filled(EvaluationOptions, options),
        "options": _filled(StepOptions, options),
        "cluster": _filled(ClusterOptions, options),
    }

    def job(suite: SuiteSpec, own: tuple[int, ...]) -> Job:
        kept = {**options.get("settings", {}), **({"model": _as_given(suite, known)} if several else {})}
        return _filled(Job, {**options, **settings, "suite": suite, "steps": own, "settings": kept})

    return tuple(job(suite, own) for suite, own in chosen.items()), several


def _as_given(suite: SuiteSpec, known: Mapping[str, SuiteSpec]) -> str:
    """What --model calls one suite of several."""
    return suite.name if known.get(suite.name) == suite else suite.location


def _filled(kind: type[T], options: Mapping[str, Any]) -> T:
    """The dataclass made of the options that have its fields' names."""
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
