"""The analyses of groups of neurons, in the order they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtdyn.analyses.context import Context
from rtdyn.analyses.mediation.mediation import mediation
from rtdyn.analyses.routing.routing import routing
from rtdyn.tables.curves import eigenvalue_curves
from rtdyn.tables.groups import dimensionality_metrics, modularity_metrics
from rtdyn.tables.heavytail import heavytail_metrics
from rtdyn.tables.mediation import mediation_rows
from rtdyn.tables.routing import routing_rows
from rtdyn.tables.step_rows import StepRows


def _same(context: Context) -> Context:
    return context


def _dimensionality(_: Context, context: Context) -> StepRows:
    return StepRows(dimensionality_metrics(context.captured, context.halves, context.groups, context.layer))


def _modularity(_: Context, context: Context) -> StepRows:
    return StepRows(modularity_metrics(context.captured, context.halves, context.groups, context.seed, context.layer))


def _heavytail(_: Context, context: Context) -> StepRows:
    return StepRows(
        heavytail_metrics(context.captured, context.groups, context.layer),
        lines=eigenvalue_curves(context.captured.anatomy.input_rows, context.groups, context.layer),
    )


GROUP_ANALYSES: tuple[tuple[str, Callable[[Context], Any], Callable[[Any, Context], StepRows]], ...] = (
    ("dimensionality", _same, _dimensionality),
    ("modularity", _same, _modularity),
    ("routing", routing, routing_rows),
    ("heavytail", _same, _heavytail),
    ("mediation", mediation, mediation_rows),
)
"""By name, as `rtdyn.names.ANALYSES` has it: the analysis, and what makes rows of its result."""
