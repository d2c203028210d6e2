"""The layers before the last that are asked for, of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.earlier_layers import EarlierLayers as Captured
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import LAYER_CURVES, LAYER_GROUPED, LAYER_GROUPS
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
    rows: StepRows


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
        return EarlierLayers({}, StepRows([]))
    stage("layers")
    routing = "routing" in options.analyses
    earlier = capture_earlier(model, evaluation.text, captured, asked, mean_over=options.mean_over, attention=routing)
    cluster = evaluation.clusters.index
    wanted = [name for name in options.analyses if name in LAYER_GROUPED]
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
    if wanted:
        stage(LAYER_GROUPS)
        shared = 0.0 if isinstance(members, Undefined) else overlap(members)
        rows += _of_groups(earlier, layers, shared, evaluation, options)
    return EarlierLayers(layers, StepRows(rows))


def _of_groups(
    earlier: Captured, layers: Mapping[int, Layer], shared: float, evaluation: Evaluation, options: StepOptions
) -> list[Metric]:
    """The layers' groups, then what each analysis finds of them. shared: `pseudo_classes.overlap`."""
    cluster = evaluation.clusters.index
    halves, rows, contexts = window_halves(cluster), [], {}
    for number, layer in layers.items():
        chosen = layer_groups(layer, cluster, shared, options.seed, options.rank_by)
        rows += choice_metrics(chosen, number)
        contexts[number] = Context(layer.captured, chosen.influence, evaluation, halves, chosen.groups, options)
    for name, analyse, as_rows in GROUP_ANALYSES:
        if name in LAYER_GROUPED and name in options.analyses:
            for context in _contexts(name, contexts, earlier):
                rows += of_layers(rows_of(analyse, LAYER_ROWS.get(name, as_rows), context).metrics)
    return rows


def _contexts(name: str, contexts: Mapping[int, Context], earlier: Captured) -> Iterator[Context]:
    """What an analysis is given of each layer, ascending."""
    if name == "routing":
        for number, captured in captures_with_streams(earlier):
            yield replace(contexts[number], captured=captured)
    else:
        yield from contexts.values()
