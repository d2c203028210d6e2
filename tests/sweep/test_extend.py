"""Tables of one step that are joined: which rows stay, and that weights of another step join nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.run import config_digest, open_run, read_step, write_copy, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.sweep.extend import _same_weights, join


def tables(value: float, *analyses: str, **columns: float) -> StepTables:
    rows = [Metric(name, "m", value) for name in ("capture", *analyses)]
    neurons = pl.DataFrame({"layer": [2, 2], "neuron": [0, 1], **{name: [v, v] for name, v in columns.items()}})
    curves = pl.DataFrame({"kind": [*analyses]})
    return StepTables(
        metric_frame(rows, 4, None), neurons, pl.DataFrame({"value": [value]}), curves, fingerprint=str(value)
    )


def held(joined: StepTables) -> dict[str, float]:
    return dict(joined.metrics.select("analysis", "value").iter_rows())


def test_what_both_hold_is_the_later_and_the_rest_stays() -> None:
    stored = tables(1.0, "ablation", "regimes", "heavytail", delta=1.0, regime=1.0)
    joined = join(stored, tables(2.0, "ablation", "routing", delta=2.0, norm=2.0))
    assert held(joined) == {"capture": 2.0, "ablation": 2.0, "regimes": 1.0, "routing": 2.0, "heavytail": 1.0}
    assert list(held(joined)) == ["capture", "ablation", "regimes", "routing", "heavytail"]
    assert joined.neurons.row(1) == (2, 1, 2.0, 1.0, 2.0) and joined.neurons.columns[-1] == "norm"
    assert joined.windows["value"].item() == 1.0 and joined.fingerprint == "2.0"
    assert sorted(joined.curves["kind"]) == ["ablation", "heavytail", "regimes", "routing"]


def test_windows_are_those_of_the_step_that_chose_them() -> None:
    joined = join(tables(1.0, "ablation", "routing"), tables(2.0, "ablation", "regimes"))
    assert joined.windows["value"].item() == 2.0
    assert join(tables(1.0, "ablation"), tables(2.0, "ablation", "routing")).windows["value"].item() == 2.0


def with_layers(step: StepTables, *metrics: str) -> StepTables:
    """With rows of layer 1, before the last, and of its two neurons."""
    rows = metric_frame([Metric("layers", name, 3.0, layer=1) for name in metrics], 4, None)
    neurons = pl.DataFrame({"layer": [1, 1], "neuron": [0, 1], "random": [True, False]})
    return replace(
        step,
        metrics=pl.concat([step.metrics, rows]),
        neurons=pl.concat([neurons, step.neurons], how="diagonal_relaxed"),
    )


@pytest.mark.parametrize("again", [(), ("total_mean",)])
def test_earlier_layers_keep_their_curves_and_neurons(again: tuple[str, ...]) -> None:
    stored = with_layers(tables(1.0, "ablation", "regimes", delta=1.0), "total_mean", "excess")
    further = tables(2.0, "ablation", "heavytail", delta=2.0)
    joined = join(stored, with_layers(further, *again) if again else further)
    assert sorted(joined.metrics.filter(analysis="layers")["metric"]) == ["excess", "total_mean"]
    assert joined.neurons.select("layer", "neuron", "random", "delta").rows() == [
        (1, 0, True, None),
        (1, 1, False, None),
        (2, 0, None, 2.0),
        (2, 1, None, 2.0),
    ]


def test_the_weights_are_the_same_by_commit_or_digest() -> None:
    stored = CheckpointRecord(revision="r", commit="a", digests={"w": "1", "old": "0"})
    assert _same_weights(stored, CheckpointRecord(revision="r", commit="a", digests={}))
    assert _same_weights(stored, CheckpointRecord(revision="r", commit="b", digests={"w": "1"}))
    assert not _same_weights(stored, CheckpointRecord(revision="r", commit="b", digests={"w": "2"}))
    assert not _same_weights(stored, CheckpointRecord(revision="r", commit="b", digests={"x": "1"}))


def test_a_copy_leaves_a_stored_step_what_it_alone_holds(tmp_path: Path) -> None:
    config = {"suite": "mine", "seed": 0}
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="mine", config=config, config_digest=config_digest(config))
    run, record = open_run(tmp_path / "run", manifest), CheckpointRecord(revision="r", commit="a", digests={"w": "1"})
    write_step(run, 0, record, tables(1.0, "ablation", "regimes"))
    write_step(run, 1, record, tables(2.0, "ablation", "heavytail"))
    write_copy(run, 0, 1, None, "step1", "b", join)
    assert held(read_step(run, 1)) == {"capture": 1.0, "ablation": 1.0, "regimes": 1.0, "heavytail": 2.0}
