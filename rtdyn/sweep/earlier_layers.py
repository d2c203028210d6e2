"""The layers before the last that are asked for, of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rtdyn.analyses.context import Context
from rtdyn.analyses.earlier_layers.chosen import earlier_layers
from rtdyn.analyses.earlier_layers.groups import layer_groups
from rtdyn.analyses.earlier_layers.layer import Layer, measure_layers
from rtdyn.analyses.earlier_layers.localised import final_layer
from rtdyn.analyses.earlier_layers.pseudo_classes import PseudoClasses
from rtdyn.analyses.earlier_layers.reaching import captures_with_streams
from rtdyn.analyses.earlier_layers.sample import budget_of
from rtdyn.analyses.groups.choose import window_halves
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.mediation.mediation import mediation
from rtdyn.analyses.mediation.null_space import lowest_directions
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.earlier_layers import EarlierLayers as Captured
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import GROUPED, LAYER_CURVES, LAYER_GROUPS, LAYER_MEDIATION
from rtdyn.store.schema import Metric
from rtdyn.sweep.analyses import GROUP_ANALYSES, LAYER_ROWS, rows_of
from rtdyn.tables.earlier_layers import curve_metrics, final_metrics, layer_metrics
from rtdyn.tables.layer_groups import choice_metrics, of_layers
from rtdyn.tables.step_rows import StepRows
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.pseudo_classes import overlap
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class EarlierLayers:
    """What is measured of them."""

    layers: Mapping[int, Layer]
    """Ascending; none where the last alone is asked for."""
    rows: Sequence[Metric]
    columns: Mapping[int, Mapping[str, np.ndarray]]
    """By layer, further columns of neurons/ (F,), NaN where undefined."""


def analyse_layers(
    model: Any,
    captured: Capture,
    result: Influence,
    evaluation: Evaluation,
    options: StepOptions,
    stage: Callable[[str], None],
) -> EarlierLayers:
    """captured, result: of the last layer, of the same model and evaluation."""
    final = captured.anatomy.layer
    asked = earlier_layers(options.layers, final + 1)
    if not asked:
        return EarlierLayers({}, [], {})
    stage("layers")
    routing = "routing" in options.analyses
    earlier = capture_earlier(model, evaluation.text, captured, asked, mean_over=options.mean_over, attention=routing)
    cluster = evaluation.clusters.index
    wanted = [name for name in options.analyses if name in GROUPED]
    members = evaluation.pseudo_classes if wanted else Undefined("no analysis asks for them")
    layers = measure_layers(
        earlier,
        cluster,
        rank_by=options.rank_by,
        tolerance=options.tolerance,
        seed=options.seed,
        memory_bytes=options.memory_bytes,
        budget=budget_of(options.exact_neurons, captured.activations.shape[1]),
        pseudo=None if isinstance(members, Undefined) else PseudoClasses(members, window_halves(cluster)),
    )
    rows = [*layer_metrics(layers, options.seed), *final_metrics(final_layer(result, layers, cluster), final)]
    if "regimes" in options.analyses:
        stage(LAYER_CURVES)
        for number, layer in layers.items():
            for name in layer.classes:
                rows += curve_metrics(layer.curve(name, options.rank_by, options.seed), name, number)
    columns: dict[int, dict[str, np.ndarray]] = {number: {} for number in layers}
    if wanted:
        stage(LAYER_GROUPS)
        shared = 0.0 if isinstance(members, Undefined) else overlap(members)
        chosen, contexts = _groups(layers, shared, evaluation, options)
        rows += chosen
        for number, found in _analysed(contexts, layers, earlier, wanted, stage):
            rows += of_layers(found.metrics)
            columns[number] |= found.columns
    return EarlierLayers(layers, rows, columns)


def _groups(
    layers: Mapping[int, Layer], shared: float, evaluation: Evaluation, options: StepOptions
) -> tuple[list[Metric], dict[int, Context]]:
    """Rows of the layers' groups, and what analyses of them are given. shared: `pseudo_classes.overlap`."""
    cluster = evaluation.clusters.index
    halves, rows, contexts = window_halves(cluster), [], {}
    for number, layer in layers.items():
        chosen = layer_groups(layer, cluster, shared, options.seed, options.rank_by)
        rows += choice_metrics(chosen, number)
        contexts[number] = Context(layer.captured, chosen.influence, evaluation, halves, chosen.groups, options)
    return rows, contexts


def _analysed(
    contexts: Mapping[int, Context],
    layers: Mapping[int, Layer],
    earlier: Captured,
    wanted: Sequence[str],
    stage: Callable[[str], None],
) -> Iterator[tuple[int, StepRows]]:
    """What each wanted analysis finds of each layer's groups."""
    for name, analyse, as_rows in GROUP_ANALYSES:
        if name not in wanted:
            continue
        if name == "mediation":
            stage(LAYER_MEDIATION)
            analyse = partial(mediation, lowest=lowest_directions(earlier.anatomy.readout))
        for context in _contexts(name, contexts, layers, earlier):
            yield context.layer, rows_of(analyse, LAYER_ROWS.get(name, as_rows), context)


def _contexts(
    name: str, contexts: Mapping[int, Context], layers: Mapping[int, Layer], earlier: Captured
) -> Iterator[Context]:
    """What an analysis is given of each layer, ascending."""
    if name == "routing":
        for number, captured in captures_with_streams(earlier):
            yield replace(contexts[number], captured=captured)
    elif name == "mediation":
        for number, layer in layers.items():
            direct = {of: c.direct for of, c in layer.classes.items()}
            yield replace(contexts[number], influence=Influence(direct, None, 0.0))
    else:
        yield from contexts.values()
