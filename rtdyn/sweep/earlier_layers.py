"""The layers before the last that are asked for, of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rtdyn.analyses.earlier_layers.chosen import earlier_layers
from rtdyn.analyses.earlier_layers.layer import Layer, measure_layers
from rtdyn.analyses.earlier_layers.localised import final_layer
from rtdyn.analyses.earlier_layers.sample import budget_of
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import LAYER_CURVES
from rtdyn.tables.earlier_layers import curve_metrics, final_metrics, layer_metrics
from rtdyn.tables.step_rows import StepRows
from rtdyn.text.evaluation import Evaluation


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
    earlier = capture_earlier(model, evaluation.text, captured, asked, mean_over=options.mean_over)
    cluster = evaluation.clusters.index
    layers = measure_layers(
        earlier,
        cluster,
        rank_by=options.rank_by,
        tolerance=options.tolerance,
        seed=options.seed,
        memory_bytes=options.memory_bytes,
        budget=budget_of(options.exact_neurons, captured.activations.shape[1]),
    )
    rows = [*layer_metrics(layers, options.seed), *final_metrics(final_layer(result, layers, cluster), final)]
    if "regimes" in options.analyses:
        stage(LAYER_CURVES)
        for number, layer in layers.items():
            for name in layer.classes:
                rows += curve_metrics(layer.curve(name, options.rank_by, options.seed), name, number)
    return EarlierLayers(layers, StepRows(rows))
