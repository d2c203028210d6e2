"""A stored step that lacks analyses: they alone run, on the same weights, and join what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from rtdyn.analyses.earlier_layers.chosen import LAST
from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.errors import InputError
from rtdyn.names import ANALYSES, LAYERS
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import Run, lacking, read_step, step_record
from rtdyn.store.schema import StepTables
from rtdyn.sweep.sweep import Sweep

_ORDER = ("capture", "ablation", "regimes", "groups", *ANALYSES[2:], LAYERS)
"""Of the rows of metrics/, as a step that ran at once has them."""


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
    whole = not {"ablation", "regimes"} & set(lacked)  # what is stored of domains and earlier layers
    shorter = replace(sweep, options=replace(options, layers=LAST) if whole else options, with_domains=not whole)
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
    ours = set(further.metrics["analysis"])
    with_regimes = "regimes" in ours or "regimes" not in set(stored.metrics["analysis"])
    if not with_regimes and LAYERS in set(stored.metrics["analysis"]):
        ours.discard(LAYERS)
    place = pl.col("analysis").replace_strict(
        {name: i for i, name in enumerate(_ORDER)}, default=len(_ORDER), return_dtype=pl.Int64
    )
    rest = further.metrics.filter(pl.col("analysis").is_in(ours))
    metrics = pl.concat([stored.metrics.filter(~pl.col("analysis").is_in(ours)), rest])
    kinds = set(further.curves["kind"])
    first, second = (further, stored) if with_regimes else (stored, further)
    of_domains = second if first.domains is None else first
    return StepTables(
        metrics=metrics.sort(place, maintain_order=True),
        neurons=_joined_neurons(stored.neurons, further.neurons).select(
            [*dict.fromkeys((*first.neurons.columns, *second.neurons.columns))]
        ),
        windows=first.windows,
        curves=pl.concat([further.curves, stored.curves.filter(~pl.col("kind").is_in(kinds))]),
        domains=of_domains.domains,
        domain_neurons=of_domains.domain_neurons,
        fingerprint=further.fingerprint,
    )


def _joined_neurons(stored: pl.DataFrame, further: pl.DataFrame) -> pl.DataFrame:
    """The neurons of `further` with the columns that it lacks, and those of layers that it lacks as they are stored."""
    kept = [name for name in stored.columns if name not in further.columns]
    both = further.join(
        stored.select("layer", "neuron", *kept), on=("layer", "neuron"), how="left", maintain_order="left"
    )
    others = stored.filter(~pl.col("layer").is_in(further["layer"].unique().implode()))
    return pl.concat([others, both], how="diagonal_relaxed").sort("layer", maintain_order=True)
