"""A stored step that lacks analyses: they alone run, on the same weights, and join what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.errors import InputError
from rtdyn.names import ANALYSES, LAYERS
from rtdyn.store.definitions import LAYER_METRICS
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import Run, lacking, read_step, step_record
from rtdyn.store.schema import StepTables
from rtdyn.sweep.sweep import Sweep
from rtdyn.tables.layer_groups import EXACT_OVERLAP

_ORDER = ("capture", "ablation", "regimes", "groups", *ANALYSES[2:], LAYERS)
"""Of the rows of metrics/, as a step that ran at once has them."""
_GROUPS_ORDER = {
    name: i
    for i, definitions in enumerate(LAYER_METRICS.values(), start=1)
    for definition in definitions
    for name in definition.names
} | {EXACT_OVERLAP: 1}
"""The same of the metrics of earlier layers' groups, which come after all else of these layers."""


def analyse_lacking(
    sweep: Sweep, run: Run, checkpoint: Checkpoint, stage: Callable[[str], None], parity: bool
) -> StepTables:
    """The step's tables with all analyses of the sweep: what is stored stays, and only the rest runs.

    The influence of the neurons, from which all others start, is computed again for them. Raises InputError, beside
    what `Sweep.analyse` raises, if the weights are not those that the stored tables were made from.
    """
    stored = step_record(run, checkpoint.step)
    if stored is None:
        return sweep.analyse(checkpoint, stage, parity)
    if not _same_weights(stored, checkpoint.record):
        raise InputError(
            f"step {checkpoint.step} holds other weights now than those its tables were made from; further analyses "
            "cannot join them, give another --out"
        )
    lacked = lacking(run, checkpoint.step, sweep.options.analyses)
    lacks = {"ablation", *lacked}
    names = tuple(name for name in ANALYSES if name in lacks)
    options = replace(sweep.options, analyses=names)
    curves = bool({"ablation", "regimes"} & set(lacked))  # which domains have
    shorter = replace(sweep, options=options, with_domains=curves)
    return join(read_step(run, checkpoint.step), shorter.analyse(checkpoint, stage, parity))


def _same_weights(stored: CheckpointRecord, now: CheckpointRecord) -> bool:
    if stored.commit is not None and stored.commit == now.commit:
        return True
    common = stored.digests.keys() & now.digests.keys()
    return bool(common) and all(stored.digests[name] == now.digests[name] for name in common)


def join(stored: StepTables, further: StepTables) -> StepTables:
    """One step's tables with the analyses of both; what both hold is taken from `further`.

    Of earlier layers and domains, whose rows hold curves where there are regimes, it is taken from what has regimes.
    """
    ours = set(further.metrics["analysis"]) - {LAYERS}
    with_regimes = "regimes" in ours or "regimes" not in set(stored.metrics["analysis"])
    first, second = (further, stored) if with_regimes else (stored, further)
    analysis = pl.col("analysis")
    rest = stored.metrics.filter(~analysis.is_in({*ours, LAYERS}))
    new = further.metrics.filter(analysis.is_in(ours))
    metrics = pl.concat([rest, new, _rows_of_layers(first.metrics, second.metrics)])
    place = analysis.replace_strict(
        {name: i for i, name in enumerate(_ORDER)}, default=len(_ORDER), return_dtype=pl.Int64
    )
    within = pl.col("metric").replace_strict(_GROUPS_ORDER, default=0, return_dtype=pl.Int64)
    metrics = metrics.sort(place, pl.when(analysis == LAYERS).then(within), maintain_order=True)
    kinds = set(further.curves["kind"])
    of_domains = second if first.domains is None else first
    return StepTables(
        metrics=metrics,
        neurons=_joined_neurons(stored.neurons, further.neurons).select(
            [*dict.fromkeys((*first.neurons.columns, *second.neurons.columns))]
        ),
        windows=first.windows,
        curves=pl.concat([further.curves, stored.curves.filter(~pl.col("kind").is_in(kinds))]),
        domains=of_domains.domains,
        domain_neurons=of_domains.domain_neurons,
        fingerprint=further.fingerprint,
    )


def _rows_of_layers(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """Of earlier layers: those of the first, and of the second the metrics that the first has none of."""
    ours, others = (rows.filter(analysis=LAYERS) for rows in (first, second))
    return pl.concat([ours, others.filter(~pl.col("metric").is_in(ours["metric"].unique().implode()))])


def _joined_neurons(stored: pl.DataFrame, further: pl.DataFrame) -> pl.DataFrame:
    """The neurons of `further`; what it lacks of columns, of layers or of a column in a layer is as it is stored."""
    was = {name: f"{name} as stored" for name in stored.columns if name not in ("layer", "neuron")}
    both = further.join(stored.rename(was), on=("layer", "neuron"), how="left", maintain_order="left")
    filled = [
        pl.coalesce(name, old) if name in further.columns else pl.col(old).alias(name) for name, old in was.items()
    ]
    others = stored.filter(~pl.col("layer").is_in(further["layer"].unique().implode()))
    return pl.concat([others, both.with_columns(filled).drop(was.values())], how="diagonal_relaxed").sort(
        "layer", maintain_order=True
    )
