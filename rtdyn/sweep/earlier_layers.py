"""The layers before the last that are asked for, of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rtdyn.analyses.earlier_layers.chosen import earlier_layers
from rtdyn.analyses.earlier_layers.layer import Layer, measure_layers
from rtdyn.analyses.earlier_layers.sample import budget_of
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import Capture
from rtdyn.text.evaluation import Evaluation


def analyse_layers(
    model: Any, captured: Capture, evaluation: Evaluation, options: StepOptions, stage: Callable[[str], None]
) -> dict[int, Layer]:
    """By layer, ascending; none where the last alone is asked for. captured: of the same model and evaluation."""
    layers = earlier_layers(options.layers, captured.anatomy.layer + 1)
    if not layers:
        return {}
    stage("layers")
    earlier = capture_earlier(model, evaluation.text, captured, layers, mean_over=options.mean_over)
    return measure_layers(
        earlier,
        evaluation.clusters.index,
        rank_by=options.rank_by,
        tolerance=options.tolerance,
        seed=options.seed,
        memory_bytes=options.memory_bytes,
        budget=budget_of(options.exact_neurons, captured.activations.shape[1]),
    )
