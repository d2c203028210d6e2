"""The analysis of one checkpoint: weights in, tables out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rtdyn.analyses import GROUPED
from rtdyn.analyses.groups.choose import split_groups, window_halves
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import Influence, influence
from rtdyn.analyses.regimes.curve import Curve, contrast_of, curve
from rtdyn.analyses.routing.routing import routing
from rtdyn.audit.fingerprint import encode
from rtdyn.capture.fingerprint_of_model import fingerprint
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.capture.free_memory import available_bytes, left_of
from rtdyn.capture.layered_model import open_model
from rtdyn.capture.memory_need import Sample, runs_by_layers
from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.checkpoints.locate import checkpoint_shape
from rtdyn.errors import InputError
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.sweep.options import StepOptions
from rtdyn.sweep.same_suite import _check_same_suite
from rtdyn.tables.curves import Columns, attention_curves, curve_table, eigenvalue_curves, pseudo_influence_curve
from rtdyn.tables.groups import dimensionality_metrics, matching_metrics, modularity_metrics
from rtdyn.tables.heavytail import heavytail_metrics
from rtdyn.tables.influence import ablation_metrics, loss_metrics, neuron_table, window_table
from rtdyn.tables.mediation import mediation_results
from rtdyn.tables.regimes import regime_metrics
from rtdyn.tables.routing import halved_groups, routing_metrics
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.pseudo_classes import overlap
from rtdyn.undefined import Undefined

ROUTING = 100
"""Apart from the groups' own random streams."""


DECILES = 10


def analyse_step(
    checkpoint: Checkpoint,
    tokens_seen: int | None,
    evaluation: Evaluation,
    options: StepOptions,
    stage: Callable[[str], None],
) -> StepTables:
    """Runs the chosen analyses on one checkpoint; `stage` is told the name of each as it begins.

    Raises InputError if the weights are damaged or of another shape than the suite's.
    """
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
    stage("capture")
    captured = capture(
        model,
        evaluation.text,
        evaluation.positions,
        mean_over=options.mean_over,
        attention="routing" in options.analyses,
    )
    stage("ablation")
    layer, documents = captured.anatomy.layer, evaluation.text.documents
    halves = window_halves(documents)
    further = set(options.analyses) - {"ablation"}
    members = evaluation.pseudo_classes if further else Undefined("no analysis asks for them")
    result = influence(
        captured,
        torch.from_numpy(frequency_deciles(evaluation.classes.rank)),
        DECILES,
        tolerance=options.tolerance,
        memory_bytes=options.memory_bytes,
        pseudo_classes=None if isinstance(members, Undefined) else torch.from_numpy(members),
        half=torch.from_numpy(halves[evaluation.positions.window]),
    )
    rows = [*loss_metrics(captured, evaluation.text.windows.shape[1]), *ablation_metrics(result, layer)]
    curves: dict[str, Curve] = {}
    if "regimes" in options.analyses:
        stage("regimes")
        curves = {name: curve(c, documents, options.rank_by, options.seed) for name, c in result.classes.items()}
        rows += regime_metrics(curves, contrast_of(result, members, options.rank_by), layer)
    columns: dict[str, np.ndarray] = {}
    lines: list[Columns] = []
    if result.pseudo is not None and not isinstance(members, Undefined):
        lines.append(pseudo_influence_curve(result.pseudo, overlap(members), options.rank_by, layer))
    if set(GROUPED) & set(options.analyses):
        more, columns, more_lines = _group_analyses(captured, result, members, evaluation, halves, options, stage)
        rows += more
        lines += more_lines
    stage("tables")
    return StepTables(
        metrics=metric_frame(rows, checkpoint.step, tokens_seen),
        neurons=neuron_table(checkpoint.step, captured, result, curves, columns),
        windows=window_table(checkpoint.step, layer, result, curves),
        fingerprint=encode(fingerprint(model)),
        curves=curve_table(checkpoint.step, lines),
    )


def _runs_by_layers(checkpoint: Checkpoint, evaluation: Evaluation, options: StepOptions) -> bool:
    """Whether the step is run one layer at a time, by --stream-layers and the memory that is to be had now."""
    if options.stream_layers != "auto":
        return options.stream_layers == "always"
    room = available_bytes(options.device)
    if options.most_bytes is not None:
        room = min(room, left_of(options.most_bytes))
    windows = evaluation.text.windows
    sample = Sample(windows.size, windows.shape[1], len(evaluation.positions.flat), None)
    shape = checkpoint_shape(checkpoint.folder, str(checkpoint.folder))
    return runs_by_layers("auto", shape, sample, options.memory_bytes, routing="routing" in options.analyses, room=room)


def _group_analyses(
    captured: Capture,
    result: Influence,
    members: np.ndarray | Undefined,
    evaluation: Evaluation,
    halves: np.ndarray,
    options: StepOptions,
    stage: Callable[[str], None],
) -> tuple[list[Metric], dict[str, np.ndarray], list[Columns]]:
    """Rows of the analyses that measure groups, columns (F,) for every neuron, and lines. members: pseudo-classes."""
    layer, chosen = captured.anatomy.layer, options.analyses
    stage("groups")
    shared = 0.0 if isinstance(members, Undefined) else overlap(members)
    cell = matching_cells(captured)
    groups = split_groups(result, evaluation.text.documents, cell, shared, options.seed, options.rank_by)
    rows = matching_metrics(groups, layer)
    columns: dict[str, np.ndarray] = {}
    lines: list[Columns] = []
    if "dimensionality" in chosen:
        stage("dimensionality")
        rows += dimensionality_metrics(captured, halves, groups, layer)
    if "modularity" in chosen:
        stage("modularity")
        rows += modularity_metrics(captured, halves, groups, options.seed, layer)
    if "routing" in chosen:
        stage("routing")
        rng = np.random.default_rng([options.seed, ROUTING])
        found = routing(captured, halved_groups(groups), rng, part=halves, memory_bytes=options.memory_bytes)
        rows += routing_metrics(found, groups, halves)
        lines += attention_curves(found)
    if "heavytail" in chosen:
        stage("heavytail")
        rows += heavytail_metrics(captured, groups, layer)
        lines += eigenvalue_curves(captured.anatomy.input_rows, groups, layer)
    if "mediation" in chosen:
        stage("mediation")
        counts = evaluation.counts.counts
        more, columns = mediation_results(
            captured, result, counts, groups, halves, options.memory_bytes, options.seed, layer
        )
        rows += more
    return rows, columns, lines


def frequency_deciles(rank: np.ndarray) -> np.ndarray:
    """int64 (V,): tenth of the frequency ranks each type lies in, 0 the most frequent; −1 for padding."""
    return np.where(rank > 0, (rank - 1) * DECILES // max(1, int(rank.max())), -1)
