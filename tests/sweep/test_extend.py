"""Tables of one step that are joined: which rows stay, and that weights of another step join nothing."""

from __future__ import annotations

import polars as pl

from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.sweep.extend import _same_weights, join


def tables(value: float, *analyses: str, **columns: float) -> StepTables:
    rows = [Metric(name, "m", value) for name in ("capture", *analyses)]
    neurons = pl.DataFrame({"layer": [2, 2], "neuron": [0, 1], **{name: [v, v] for name, v in columns.items()}})
    curves = pl.DataFrame({"kind": [*analyses]})
    return StepTables(metric_frame(rows, 4, None), neurons, pl.DataFrame({"value": [value]}), curves, str(value))


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


def test_the_weights_are_the_same_by_commit_or_digest() -> None:
    stored = CheckpointRecord(revision="r", commit="a", digests={"w": "1", "old": "0"})
    assert _same_weights(stored, CheckpointRecord(revision="r", commit="a", digests={}))
    assert _same_weights(stored, CheckpointRecord(revision="r", commit="b", digests={"w": "1"}))
    assert not _same_weights(stored, CheckpointRecord(revision="r", commit="b", digests={"w": "2"}))
    assert not _same_weights(stored, CheckpointRecord(revision="r", commit="b", digests={"x": "1"}))
