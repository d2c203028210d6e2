"""The analysis of one checkpoint: weights in, tables out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rtdyn.analyses.context import Context
from rtdyn.analyses.earlier_layers.chosen import earlier_layers
from rtdyn.analyses.groups.choose import split_groups, window_halves
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.influence.parity import check_parity
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.regimes.curve import Curve
from rtdyn.analyses.regimes.pseudo_curve import pseudo_curve
from rtdyn.analyses.regimes.regimes import regimes
from rtdyn.audit.fingerprint import encode, fingerprint_of_files
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.capture.free_memory import available_bytes, left_of
from rtdyn.capture.layered_model import open_model
from rtdyn.capture.memory_need import runs_by_layers, sample_of
from rtdyn.capture.own_pass import own_pass
from rtdyn.checkpoints.checkpoint import Checkpoint, loading
from rtdyn.checkpoints.locate import checkpoint_shape
from rtdyn.errors import InputError, OverflowedError
from rtdyn.names import GROUPED
from rtdyn.store.schema import StepTables, metric_frame
from rtdyn.sweep.analyses import GROUP_ANALYSES, rows_of
from rtdyn.sweep.domains import with_domains
from rtdyn.sweep.earlier_layers import analyse_layers
from rtdyn.sweep.influences import influences
from rtdyn.sweep.same_suite import _check_same_suite
from rtdyn.tables.curves import curve_table, pseudo_influence_curve
from rtdyn.tables.earlier_layers import with_earlier_layers
from rtdyn.tables.groups import matching_metrics
from rtdyn.tables.influence import neuron_table, window_table
from rtdyn.tables.regimes import regime_metrics
from rtdyn.tables.step_rows import StepRows
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.pseudo_classes import overlap
from rtdyn.undefined import Undefined


def analyse_step(
    checkpoint: Checkpoint,
    tokens_seen: int | None,
    evaluation: Evaluation,
    options: StepOptions,
    stage: Callable[[str], None],
    parity: bool = False,
    domains: bool = True,
) -> StepTables:
    """Runs the chosen analyses on one checkpoint; `stage` is told the name of each as it begins.

    domains: whether those of the evaluation are measured too.
    parity: first compare the capture and the closed form with transformers' own model. Raises InputError if the weights
    are damaged, of another shape than the suite's, or make numbers that overflow, and ParityError if that comparison
    fails.
    """
    try:
        return _analyse(checkpoint, tokens_seen, evaluation, options, stage, parity, domains)
    except OverflowedError as error:
        raise InputError(f"step {checkpoint.step} in {checkpoint.folder}: {error}; leave it out of --steps") from error


def _analyse(
    checkpoint: Checkpoint,
    tokens_seen: int | None,
    evaluation: Evaluation,
    options: StepOptions,
    stage: Callable[[str], None],
    parity: bool,
    domains: bool,
) -> StepTables:
    stage("load")
    _check_same_suite(checkpoint, evaluation)
    by_layers = _runs_by_layers(checkpoint, evaluation, options)
    model = open_model(checkpoint, options.device, by_layers, options.memory_bytes)
    logits = model.get_output_embeddings().weight.shape[0]
    if logits != evaluation.n_logits:
        raise InputError(
            f"step {checkpoint.step} has {logits:,} logits where the suite's last step has {evaluation.n_logits:,}; "
            "it belongs to another model, leave it out of --steps"
        )
    tables = analyse_model(model, checkpoint.step, tokens_seen, evaluation, options, stage, parity)
    if domains:
        tables = with_domains(tables, model, checkpoint.step, tokens_seen, evaluation, options, stage)
    with loading(checkpoint.folder):
        fingerprint = fingerprint_of_files(checkpoint.files, str(evaluation.model_config["model_type"]))
    return replace(tables, fingerprint=encode(fingerprint))


def analyse_model(
    model: Any,
    step: int,
    tokens_seen: int | None,
    evaluation: Evaluation,
    options: StepOptions,
    stage: Callable[[str], None],
    parity: bool,
) -> StepTables:
    """The tables of a model, transformers' own or a LayeredModel, without a fingerprint.

    Raises as `analyse_step`, but OverflowedError as it is.
    """
    stage("capture")
    own = own_pass(model, evaluation.text, evaluation.positions) if parity else None
    captured = capture(
        model,
        evaluation.text,
        evaluation.positions,
        mean_over=options.mean_over,
        attention="routing" in options.analyses,
    )
    if own is not None:
        check_parity(own, captured, options.memory_bytes)
    stage("ablation")
    layer = captured.anatomy.layer
    halves = window_halves(evaluation.clusters.index)
    further = set(options.analyses) - {"ablation"}
    members = evaluation.pseudo_classes if further else Undefined("no analysis asks for them")
    result, rows = influences(
        captured,
        evaluation,
        options,
        pseudo_classes=None if isinstance(members, Undefined) else torch.from_numpy(members),
        half=torch.from_numpy(halves[evaluation.positions.window]),
    )
    parts = [StepRows(rows)]
    curves: Mapping[str, Curve] = {}
    if "regimes" in options.analyses:
        stage("regimes")
        evidence = regimes(result, evaluation, options)
        curves = evidence.curves
        parts.append(StepRows(regime_metrics(evidence, layer)))
    shared = 0.0 if isinstance(members, Undefined) else overlap(members)
    if result.pseudo is not None:
        line = pseudo_influence_curve(pseudo_curve(result.pseudo, shared, options.rank_by), layer)
        parts.append(StepRows([], lines=[line]))
    if set(GROUPED) & set(options.analyses):
        parts += _group_analyses(captured, result, shared, evaluation, halves, options, stage)
    earlier = analyse_layers(model, captured, result, evaluation, options, stage)
    parts.append(StepRows(earlier.rows))
    stage("tables")
    neurons = neuron_table(step, captured, result, curves, _columns(parts))
    return StepTables(
        metrics=metric_frame([row for part in parts for row in part.metrics], step, tokens_seen),
        neurons=with_earlier_layers(neurons, earlier.layers, earlier.columns, step, options.rank_by),
        windows=window_table(step, layer, result, curves),
        curves=curve_table(step, [line for part in parts for line in part.lines]),
    )


def _columns(parts: Sequence[StepRows]) -> dict[str, np.ndarray]:
    return {name: values for part in parts for name, values in part.columns.items()}


def _runs_by_layers(checkpoint: Checkpoint, evaluation: Evaluation, options: StepOptions) -> bool:
    """Whether the step is run one layer at a time, by --stream-layers and the memory that is to be had now."""
    if options.stream_layers != "auto":
        return options.stream_layers == "always"
    room = available_bytes(options.device)
    if options.most_bytes is not None:
        room = min(room, left_of(options.most_bytes))
    try:
        shape = checkpoint_shape(checkpoint.folder, str(checkpoint.folder))
    except InputError:
        return False  # what is wrong is said where the model is loaded, if it is wrong there
    earlier = earlier_layers(options.layers, shape.layers)
    texts = [
        (evaluation, "routing" in options.analyses, earlier),
        *((domain, False, ()) for domain in evaluation.domains.values()),
    ]
    return any(
        runs_by_layers(
            "auto", shape, sample_of(text), options.memory_bytes, routing=routing, room=room, earlier_layers=own
        )
        for text, routing, own in texts
    )


def _group_analyses(
    captured: Capture,
    result: Influence,
    shared: float,
    evaluation: Evaluation,
    halves: np.ndarray,
    options: StepOptions,
    stage: Callable[[str], None],
) -> list[StepRows]:
    """What the analyses of groups add to the tables, each in turn. shared: `pseudo_classes.overlap`."""
    stage("groups")
    cell = matching_cells(captured)
    groups = split_groups(result, evaluation.clusters.index, cell, shared, options.seed, options.rank_by)
    context = Context(captured, result, evaluation, halves, groups, options)
    parts = [StepRows(matching_metrics(groups, context.layer))]
    for name, analyse, rows in GROUP_ANALYSES:
        if name in options.analyses:
            stage(name)
            parts.append(rows_of(analyse, rows, context))
    return parts
