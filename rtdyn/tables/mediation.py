"""Mediation through token frequency, confidence and null space as rows of metrics/ and columns of neurons/."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from rtdyn.analyses.context import Context
from rtdyn.analyses.mediation.confidence import Confidence
from rtdyn.analyses.mediation.mediation import (
    ENTROPY_CHANGE,
    KL_CHANGE,
    MEDIATION,
    NULL_SPACE_SHARE,
    Mediation,
    ThroughFrequency,
)
from rtdyn.analyses.statistics import as_numpy
from rtdyn.names import RARE
from rtdyn.store.schema import Metric
from rtdyn.tables.groups import with_nulls
from rtdyn.tables.step_rows import StepRows
from rtdyn.undefined import Undefined

DIRECT = "direct_"
"""What names of an earlier layer begin with that are of the direct effect."""


def mediation_rows(result: Mediation, context: Context) -> StepRows:
    """Rows for the groups and columns (F,) for every neuron."""
    layer = context.layer
    rows = _group_rows(result, MEDIATION, layer)
    rows.append(Metric("mediation", "null_space_directions", float(result.null_space.k), layer=layer))
    rows += _group_rows(result, NULL_SPACE_SHARE, layer)
    columns: dict[str, np.ndarray] = {}
    if not isinstance(result.frequency, Undefined):
        columns |= _frequency_columns(result.frequency)
    columns[NULL_SPACE_SHARE] = as_numpy(result.null_space.squared_share)
    if not isinstance(result.confidence, Undefined):
        rows += _confidence_rows(result.confidence, layer)
        columns |= _confidence_columns(result.confidence, context.captured.activations.shape[1])
    rows += _group_rows(result, ENTROPY_CHANGE, layer) + _group_rows(result, KL_CHANGE, layer)
    return StepRows(rows, columns)


def layer_mediation_rows(result: Mediation, context: Context) -> StepRows:
    """The same of an earlier layer, where all but the share of the null space is of the direct effect and says so.

    What no ablation changes is left to the last layer's rows.
    """
    rows = _group_rows(result, NULL_SPACE_SHARE, context.layer)
    for metric in (MEDIATION, ENTROPY_CHANGE, KL_CHANGE):
        rows += _group_rows(result, metric, context.layer, DIRECT)
    columns = mediation_rows(result, context).columns
    return StepRows(rows, {name if name == NULL_SPACE_SHARE else DIRECT + name: of for name, of in columns.items()})


def _group_rows(result: Mediation, metric: str, layer: int, beginning: str = "") -> list[Metric]:
    """beginning: of the stored name."""
    rows = []
    for name, value in result.groups[metric].items():
        if isinstance(value, Undefined):
            row = partial(Metric, "mediation", beginning + metric, None, token_class=RARE, group=name, layer=layer)
            rows.append(row(reason=value.reason))
        else:
            rows += with_nulls("mediation", beginning + metric, name, value, (None, None), layer)
    return rows


def _frequency_columns(frequency: ThroughFrequency) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, share in frequency.share.items():
        columns |= {
            f"mean_abs_frozen_{name}": as_numpy(frequency.frozen[name].mean_abs),
            f"mediation_{name}": as_numpy(share.value),
            f"se_mediation_{name}": as_numpy(share.se),
            f"error_bound_mediation_{name}": as_numpy(share.error_bound),
        }
    return columns


def _confidence_rows(changes: Confidence, layer: int) -> list[Metric]:
    """Entropy and divergence from the unigram distribution before any ablation."""
    rare = changes.classes[RARE]
    row = partial(Metric, "mediation", token_class=RARE, layer=layer, n=rare.n)
    return [
        row(metric=metric, value=before.value, ci_low=before.low, ci_high=before.high, clusters=before.clusters)
        for metric, before in (("entropy", rare.entropy), ("kl_to_unigram", rare.kl))
    ]


def _confidence_columns(changes: Confidence, neurons: int) -> dict[str, np.ndarray]:
    """NaN for neurons whose changes were not computed."""

    def column(values: Tensor) -> np.ndarray:
        result = np.full(neurons, np.nan)
        result[changes.neurons] = as_numpy(values)
        return result

    columns = {}
    for name, c in changes.classes.items():
        columns[f"{ENTROPY_CHANGE}_{name}"] = column(c.entropy_change)
        columns[f"{KL_CHANGE}_{name}"] = column(c.kl_change)
    return columns
