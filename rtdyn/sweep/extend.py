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
    # else what is stored of domains and of earlier layers is whole
    again = bool({"ablation", "regimes"} & set(lacked))
    options = replace(sweep.options, analyses=names, layers=sweep.options.layers if again else LAST)
    shorter = replace(sweep, options=options, with_domains=again)
    return join(read_step(run, checkpoint.step), shorter.analyse(checkpoint, stage, parity))


def _same_weights(stored: CheckpointRecord, now: CheckpointRecord) -> bool:
    if stored.commit is not None and stored.commit == now.commit:
        return True
    common = stored.digests.keys() & now.digests.keys()
    return bool(common) and all(stored.digests[name] == now.digests[name] for name in common)


def join(stored: StepTables, further: StepTables) -> StepTables:
    """One step's tables with the analyses of both; what both hold is taken from `further`."""
    ours = set(further.metrics["analysis"])
    with_regimes = "regimes" in ours or "regimes" not in set(stored.metrics["analysis"])
    place = pl.col("analysis").replace_strict(
        {name: i for i, name in enumerate(_ORDER)}, default=len(_ORDER), return_dtype=pl.Int64
    )
    # curves of earlier layers are of `regimes`, and stay where the others alone are measured again
    of_layers = set(further.metrics.filter(analysis=LAYERS)["metric"])
    whole = pl.col("analysis").is_in(ours - {LAYERS})
    replaced = whole | (pl.col("analysis") == LAYERS) & pl.col("metric").is_in(of_layers)
    metrics = pl.concat([stored.metrics.filter(~replaced), further.metrics])
    kinds = set(further.curves["kind"])
    first, second = (further, stored) if with_regimes else (stored, further)
    columns = list(dict.fromkeys((*first.neurons.columns, *second.neurons.columns)))
    kept = [name for name in stored.neurons.columns if name not in further.neurons.columns]
    key = ("layer", "neuron")
    neurons = further.neurons.join(stored.neurons.select(*key, *kept), on=key, how="left", maintain_order="left")
    not_again = stored.neurons.join(further.neurons, on=key, how="anti", maintain_order="left")
    neurons = pl.concat([neurons, not_again], how="diagonal_relaxed").sort("layer", maintain_order=True)
    return StepTables(
        metrics=metrics.sort(place, maintain_order=True),
        neurons=neurons.select(columns),
        windows=further.windows if with_regimes else stored.windows,
        curves=pl.concat([further.curves, stored.curves.filter(~pl.col("kind").is_in(kinds))]),
        domains=stored.domains if further.domains is None else further.domains,
        domain_neurons=stored.domain_neurons if further.domain_neurons is None else further.domain_neurons,
        fingerprint=further.fingerprint,
    )
