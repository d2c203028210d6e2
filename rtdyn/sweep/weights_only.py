"""The analysis of one checkpoint's weights alone: no text, no forward pass, no other tensors than the final MLP's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from rtdyn.analyses.groups.input_weights import layer_tails
from rtdyn.audit.fingerprint import encode, fingerprint_of
from rtdyn.checkpoints.checkpoint import Checkpoint, read_config
from rtdyn.checkpoints.tensors import read_final_mlp
from rtdyn.store.schema import StepTables, metric_frame
from rtdyn.sweep.same_suite import check_same_shape
from rtdyn.tables.curves import curve_table, hill_curves
from rtdyn.tables.heavytail import layer_tail_rows

WINDOW_SCHEMA: Mapping[str, Any] = {
    "step": pl.Int64,
    "kind": pl.String,
    "token_class": pl.String,
    "layer": pl.Int64,
    "index": pl.Int64,
    "neuron": pl.Int64,
    "n": pl.Int64,
    "sum_delta": pl.Float64,
    "sum_abs_delta": pl.Float64,
}


def analyse_weights(
    checkpoint: Checkpoint, tokens_seen: int | None, model_config: Mapping[str, Any], stage: Callable[[str], None]
) -> StepTables:
    """Heavy tails of the final layer as a whole; `stage` is told the name of each part as it begins.

    model_config: the config.json of the step that the run was prepared from. windows/ stays empty, neurons/ has the
    norms of the output rows. Raises InputError if the weights are damaged or of another shape.
    """
    stage("load")
    check_same_shape(read_config(checkpoint.folder), model_config, checkpoint.step)
    mlp, inputs, output = read_final_mlp(checkpoint.folder)
    stage("heavytail")
    tables = weight_tables(inputs, output, mlp.layer, checkpoint.step, tokens_seen)
    stage("tables")
    matrices = {f"layers.{mlp.layer}.{name}": rows for name, rows in {**inputs, "out": output}.items()}
    return replace(tables, fingerprint=encode(fingerprint_of(matrices)))


def weight_tables(
    inputs: Mapping[str, Tensor], output: Tensor, layer: int, step: int, tokens_seen: int | None
) -> StepTables:
    """The tables of a final MLP's weights, without a fingerprint. inputs: by name, (F, d). output: (F, d)."""
    tails = layer_tails(inputs, output)
    rows = layer_tail_rows(tails, layer)
    neurons = pl.DataFrame(
        {
            "step": np.full(len(output), step),
            "layer": np.full(len(output), layer),
            "neuron": np.arange(len(output)),
            "norm": output.double().norm(dim=1).numpy(),
        }
    )
    return StepTables(
        metrics=metric_frame(rows, step, tokens_seen),
        neurons=neurons,
        windows=pl.DataFrame(schema=dict(WINDOW_SCHEMA)),
        curves=curve_table(step, hill_curves(tails.over_k, len(inputs) > 1, layer)),
    )
