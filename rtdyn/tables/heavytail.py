"""Rows of metrics/ for the heavy tails of input weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch

from rtdyn.analyses.groups import heavytail
from rtdyn.analyses.groups.choose import Group
from rtdyn.analyses.groups.heavytail import _hill, _no_hill
from rtdyn.analyses.groups.weightwatcher import WEIGHTWATCHER_METRICS, weightwatcher_metrics
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import RARE
from rtdyn.store.schema import Metric
from rtdyn.tables.groups import _group_metrics, _same
from rtdyn.undefined import Undefined


def heavytail_metrics(
    captured: Capture, groups: Mapping[str, Group | Undefined], layer: int, weightwatcher: bool = True
) -> list[Metric]:
    """Hill's α of each group's input weights, and weightwatcher's numbers for the layer's and the groups' matrices."""
    rows = []
    matrices = captured.anatomy.input_rows
    for matrix, weights in matrices.items():
        names = _hill_names(matrices, matrix)
        statistic = partial(_hill, weights, names)
        metrics = tuple(names.values())
        rows += _group_metrics(
            "heavytail", groups, partial(_same, statistic), metrics, partial(_no_hill, weights, names), layer
        )
    rows += layer_heavytail_metrics(matrices, captured.anatomy.output_rows, layer, weightwatcher)
    if weightwatcher:
        rows += _weightwatcher_of_groups(captured, groups, layer)
    return rows


def layer_heavytail_metrics(
    inputs: Mapping[str, torch.Tensor], output: torch.Tensor, layer: int, weightwatcher: bool = True
) -> list[Metric]:
    """Hill's α of all the layer's input rows, with its interval, and weightwatcher's numbers for its matrices.

    inputs: by name, (F, d). output: (F, d). They need no text: a layer has no null.
    """
    rows = []
    for matrix, weights in inputs.items():
        found = heavytail.spectra(weights, np.arange(len(weights))[None])
        for rule, name in _hill_names(inputs, matrix).items():
            row = partial(Metric, "heavytail", name, layer=layer)
            why = heavytail.undefined(found, rule)[0]
            if why is not None:
                rows.append(row(value=None, reason=why))
                continue
            hill = heavytail.hill_of_spectra(found, rule)
            rows.append(
                row(value=float(hill.alpha[0]), ci_low=float(hill.low[0]), ci_high=float(hill.high[0]), n=len(weights))
            )
    if weightwatcher:
        for matrix, weights in {**inputs, "out": output}.items():
            rows += _weightwatcher_rows(matrix, weightwatcher_metrics(weights), layer)
    return rows


def _hill_names(matrices: Mapping[str, torch.Tensor], matrix: str) -> dict[str, str]:
    suffix = "" if len(matrices) == 1 else f"_{matrix}"
    return {rule: f"hill_alpha_{rule.replace('-', '_')}{suffix}" for rule in heavytail.RULES}


def _weightwatcher_rows(
    matrix: str, found: Mapping[str, float | Undefined], layer: int, group: str | None = None
) -> list[Metric]:
    token_class = None if group is None else RARE
    row = partial(Metric, "heavytail", layer=layer, group=group, token_class=token_class)
    return [
        row(metric=f"ww_{metric}_{matrix}", value=None, reason=value.reason)
        if isinstance(value, Undefined)
        else row(metric=f"ww_{metric}_{matrix}", value=value)
        for metric, value in found.items()
    ]


def _weightwatcher_of_groups(captured: Capture, groups: Mapping[str, Group | Undefined], layer: int) -> list[Metric]:
    rows = []
    for matrix, weights in captured.anatomy.input_rows.items():
        for name, group in groups.items():
            if isinstance(group, Undefined):
                found: dict[str, float | Undefined] = dict.fromkeys(WEIGHTWATCHER_METRICS, group)
            else:
                halves = [weights[torch.from_numpy(members)] for members in group.members]
                found = _mean_of_halves([weightwatcher_metrics(own) for own in halves])
            rows += _weightwatcher_rows(matrix, found, layer, name)
    return rows


def _mean_of_halves(found: list[dict[str, float | Undefined]]) -> dict[str, float | Undefined]:
    result: dict[str, float | Undefined] = {}
    for metric, first in found[0].items():
        second = found[1][metric]
        result[metric] = (
            first if isinstance(first, Undefined) else second if isinstance(second, Undefined) else (first + second) / 2
        )
    return result
