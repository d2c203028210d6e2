"""Groups of layers before the last as rows of metrics/, by the names that the last layer's rows have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from rtdyn.analyses.earlier_layers.groups import LayerGroups
from rtdyn.names import LAYERS, RARE, TOP
from rtdyn.store.schema import Metric
from rtdyn.tables.groups import matching_metrics
from rtdyn.undefined import Undefined

EXACT_OVERLAP = "exact_overlap"


def choice_metrics(chosen: LayerGroups, layer: int) -> list[Metric]:
    """The groups, and how many of `top` the exact effects would choose."""
    row = partial(Metric, LAYERS, EXACT_OVERLAP, token_class=RARE, group=TOP, layer=layer)
    overlap = chosen.exact_overlap
    return [
        *of_layers(matching_metrics(chosen.groups, layer)),
        row(value=None, reason=overlap.reason) if isinstance(overlap, Undefined) else row(value=overlap),
    ]


def of_layers(rows: Iterable[Metric]) -> list[Metric]:
    """The rows of an analysis of groups among those of earlier layers, so that none takes them for the last layer's."""
    return [replace(row, analysis=LAYERS) for row in rows]
