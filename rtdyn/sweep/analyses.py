"""The analyses of groups of neurons, in the order they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rtdyn.analyses.context import Context
from rtdyn.analyses.groups.dimensionality import dimensionality
from rtdyn.analyses.groups.input_weights import heavytail
from rtdyn.analyses.groups.modularity import modularity
from rtdyn.analyses.mediation.mediation import mediation
from rtdyn.analyses.routing.routing import routing
from rtdyn.analyses.threads import few_numpy_threads
from rtdyn.tables.groups import dimensionality_rows, modularity_rows
from rtdyn.tables.heavytail import heavytail_rows
from rtdyn.tables.mediation import layer_mediation_rows, mediation_rows
from rtdyn.tables.routing import layer_routing_rows, routing_rows
from rtdyn.tables.step_rows import StepRows

GROUP_ANALYSES: tuple[tuple[str, Callable[[Context], Any], Callable[[Any, Context], StepRows]], ...] = (
    ("dimensionality", dimensionality, dimensionality_rows),
    ("modularity", modularity, modularity_rows),
    ("routing", routing, routing_rows),
    ("heavytail", heavytail, heavytail_rows),
    ("mediation", mediation, mediation_rows),
)
"""By name, as `rtdyn.names.ANALYSES` has it: the analysis, and what makes rows of its result."""
LAYER_ROWS: Mapping[str, Callable[[Any, Context], StepRows]] = {
    "routing": layer_routing_rows,
    "mediation": layer_mediation_rows,
}
"""What makes rows of a layer before the last, where it is not the same."""


def rows_of(analyse: Callable[[Context], Any], rows: Callable[[Any, Context], StepRows], context: Context) -> StepRows:
    """The rows of an analysis of one layer's groups, which is done by as many threads as gain anything there."""
    with few_numpy_threads(context.captured.activations.shape[1]):
        return rows(analyse(context), context)
