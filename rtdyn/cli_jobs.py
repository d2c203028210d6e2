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

    from rtdyn.sweep.job import Job

    T = TypeVar("T", bound=DataclassInstance)


def jobs_of(
    models: Sequence[str], steps: str, suites: Path | None, options: Mapping[str, Any]
) -> tuple[tuple[Job, ...], bool]:
    """A job for each suite that `models` name, and whether several were asked for.

    options: by the names of the dataclasses' fields; a field with a default may be lacking. Raises UsageError and
    InputError for models and steps that do not exist, before anything large is imported.
    """
    found, several = find_suites(models, load_suites(suites))
    chosen = {suite: parse_steps(steps, suite.steps, f"{suite.name}: " if several else "") for suite in found}
    from rtdyn.analyses.options import StepOptions
    from rtdyn.names import SWEEP
    from rtdyn.sweep.cluster_options import ClusterOptions
    from rtdyn.sweep.job import Job
    from rtdyn.text.evaluation import EvaluationOptions

    bands = [own for band in options["bands"] for own in (SWEEP if band == "sweep" else (band,))]
    options = {**options, "bands": tuple(bands)}
    settings = {
        "measured_on": _filled(EvaluationOptions, options),
        "options": _filled(StepOptions, options),
        "cluster": _filled(ClusterOptions, options),
    }
    return tuple(_filled(Job, {**options, **settings, "suite": s, "steps": own}) for s, own in chosen.items()), several


def _filled(kind: type[T], options: Mapping[str, Any]) -> T:
    """The dataclass made of the options that have its fields' names."""
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
