"""The domains of one checkpoint: capture, influence and curves on each further text, by the model that is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from rtdyn.analyses.domains import compare_ranks
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.options import StepOptions
from rtdyn.analyses.regimes.curve import curve
from rtdyn.capture.by_layers import forget
from rtdyn.capture.forward_pass import Capture, captures
from rtdyn.capture.layered_model import LayeredModel
from rtdyn.errors import OverflowedError
from rtdyn.names import COMMON
from rtdyn.store.schema import Metric, StepTables
from rtdyn.sweep.influences import influences
from rtdyn.tables.domains import domain_frame, domain_neuron_table, rank_metrics
from rtdyn.tables.regimes import curve_metrics
from rtdyn.text.evaluation import Evaluation


def with_domains(
    tables: StepTables,
    model: Any,
    step: int,
    tokens_seen: int | None,
    evaluation: Evaluation,
    options: StepOptions,
    stage: Callable[[str], None],
) -> StepTables:
    """The step's tables with those of the evaluation's domains, if it has any.

    tables: of the same model on the main text. Raises OverflowedError, which names the domain, for activations that
    overflow.
    """
    if not evaluation.domains:
        return tables
    stage("domains")
    if isinstance(model, LayeredModel):
        forget(model)
    texts = [(domain.text, domain.positions) for domain in evaluation.domains.values()]
    captured = captures(model, texts, mean_over=options.mean_over)
    metrics: dict[str, list[Metric]] = {}
    neurons: list[pl.DataFrame] = []
    main = _ranking(tables.neurons, options.rank_by)
    for name, domain in evaluation.domains.items():
        try:
            metrics[name], result, layer = _measured(next(captured), domain, main, options)
        except OverflowedError as error:
            raise OverflowedError(f"{error}, on the domain {name}") from error
        neurons.append(domain_neuron_table(step, name, layer, result))
    return replace(
        tables, domains=domain_frame(metrics, step, tokens_seen), domain_neurons=pl.concat(neurons, how="diagonal")
    )


def _ranking(neurons: pl.DataFrame, rank_by: str) -> dict[str, np.ndarray]:
    """float64 (F,) by class: what ranks the final layer's neurons in the main text, by its rows of neurons/."""
    final = neurons.filter(layer=neurons["layer"].max()).sort("neuron")
    kind = "delta_" if rank_by == "abs_mean" else "mean_abs_"
    columns = (name for name in final.columns if name.startswith(kind))
    return {name.removeprefix(kind): np.abs(final[name].to_numpy()) for name in columns}


def _measured(
    captured: Capture, domain: Evaluation, main: Mapping[str, np.ndarray], options: StepOptions
) -> tuple[list[Metric], Influence, int]:
    """One domain's rows, its influences, and the layer they are of."""
    layer, cluster = captured.anatomy.layer, domain.clusters.index
    result, rows = influences(captured, domain, options)
    if "regimes" in options.analyses:
        rare = {name: c for name, c in result.classes.items() if name != COMMON}
        curves = {name: curve(c, options.rank_by, options.seed, briefly=True) for name, c in rare.items()}
        rows += curve_metrics(curves, layer)
    rows += rank_metrics(compare_ranks(result, main, cluster, options.rank_by), layer)
    return rows, result, layer
