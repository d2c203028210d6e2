"""The analyses of groups of neurons, in the order they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rtdyn.analyses.context import Context
from rtdyn.analyses.groups.dimensionality import dimensionality
from rtdyn.analyses.groups.input_weights import heavytail
from rtdyn.analyses.groups.modularity import modularity
from rtdyn.analyses.routing.routing import Routing, routing
from rtdyn.tables.curves import attention_curves
from rtdyn.tables.groups import dimensionality_rows, modularity_rows
from rtdyn.tables.heavytail import heavytail_rows
from rtdyn.tables.mediation import mediation_results
from rtdyn.tables.routing import halved_groups, routing_metrics
from rtdyn.tables.step_rows import StepRows

ROUTING = 100
"""Apart from the groups' own random streams."""


def _same(context: Context) -> Context:
    return context


def _routing(context: Context) -> Routing:
    rng = np.random.default_rng([context.seed, ROUTING])
    return routing(
        context.captured,
        halved_groups(context.groups),
        rng,
        part=context.halves,
        memory_bytes=context.memory_bytes,
    )


def _routing_rows(found: Routing, context: Context) -> StepRows:
    return StepRows(routing_metrics(found, context.groups, context.halves), lines=attention_curves(found))


def _mediation(_: Context, context: Context) -> StepRows:
    rows, columns = mediation_results(
        context.captured,
        context.influence,
        context.evaluation.counts.counts,
        context.groups,
        context.halves,
        context.memory_bytes,
        context.seed,
        context.layer,
    )
    return StepRows(rows, columns)


GROUP_ANALYSES: tuple[tuple[str, Callable[[Context], Any], Callable[[Any, Context], StepRows]], ...] = (
    ("dimensionality", dimensionality, dimensionality_rows),
    ("modularity", modularity, modularity_rows),
    ("routing", _routing, _routing_rows),
    ("heavytail", heavytail, heavytail_rows),
    ("mediation", _same, _mediation),
)
"""By name, as `rtdyn.names.ANALYSES` has it: the analysis, and what makes rows of its result."""
