"""The influences of every neuron on one text, and their rows, alike for the main text and its domains."""

from __future__ import annotations

import torch
from torch import Tensor

from rtdyn.analyses.influence.ablation import Influence, influence
from rtdyn.analyses.influence.losses import mean_losses
from rtdyn.analyses.influence.summary import summarise
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.forward_pass import Capture
from rtdyn.store.schema import Metric
from rtdyn.tables.influence import ablation_metrics, loss_metrics
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.token_classes import DECILES


def influences(
    captured: Capture,
    evaluation: Evaluation,
    options: StepOptions,
    *,
    pseudo_classes: Tensor | None = None,
    half: Tensor | None = None,
) -> tuple[Influence, list[Metric]]:
    """What `influence` gives of a captured text, with its keywords, and the rows of the losses and of it."""
    cluster = evaluation.clusters.index
    result = influence(
        captured,
        torch.from_numpy(evaluation.classes.deciles),
        DECILES,
        tolerance=options.tolerance,
        memory_bytes=options.memory_bytes,
        pseudo_classes=pseudo_classes,
        half=half,
        cluster=cluster,
    )
    losses = mean_losses(captured, evaluation.text.windows.shape[1], cluster)
    summary = summarise(result, options.seed)
    layer = captured.anatomy.layer
    return result, [*loss_metrics(losses), *ablation_metrics(summary, result.refined_share, layer)]
