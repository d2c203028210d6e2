"""Tables of one step that are joined: which rows stay, and that weights of another step join nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rtdyn.analyses.options import StepOptions
from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.run import config_digest, done_with, lacking, open_run, read_step, write_copy, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.extend import _same_weights, analyse_lacking, join
from rtdyn.sweep.sweep import Sweep


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


def test_ranks_of_the_last_layer_stay_where_analyses_of_groups_measure_earlier_layers_again() -> None:
    """Without regimes the neurons of earlier layers alone have ranks, in the column that those of the last have too."""
    ranks = pl.DataFrame({"layer": [1, 1, 2, 2], "neuron": [0, 1, 0, 1], "rank": [2, 1, 1, 2]})
    stored = replace(tables(1.0, "ablation", "regimes"), neurons=ranks)
    later = with_layers(tables(2.0, "ablation", "dimensionality"), "d_eff")
    further = replace(later, neurons=ranks.with_columns(rank=pl.when(layer=1).then("rank")))
    assert join(stored, further).neurons.select(ranks.columns).equals(ranks)
    assert join(further, stored).neurons.select(ranks.columns).equals(ranks)


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


def of_layers(value: float, *metrics: str, layers: tuple[int, ...] = (1, 2), **columns: float) -> StepTables:
    """Tables of a run with --layers and a domain, whose rows of both are these metrics."""
    own = tables(value, *(() if "excess" not in metrics else ("regimes",)), "ablation")
    rows = [Metric("layers", metric, value) for metric in metrics]
    neurons = pl.DataFrame([{"layer": layer, "neuron": 0, **columns} for layer in layers])
    domains = pl.DataFrame({"domain": ["law"] * len(metrics), "metric": metrics})
    metrics_frame = pl.concat([own.metrics, metric_frame(rows, 4, None)])
    return replace(own, metrics=metrics_frame, neurons=neurons, domains=domains, domain_neurons=domains)


def test_curves_of_layers_and_domains_stay_where_analyses_without_them_join() -> None:
    stored, copied = of_layers(1.0, "total_mean", "excess", delta=1.0), of_layers(2.0, "total_mean", delta=2.0)
    for joined in (join(stored, copied), join(copied, stored)):
        assert set(joined.metrics.filter(analysis="layers")["metric"]) == {"total_mean", "excess"}
        assert len(joined.metrics.filter(analysis="layers")) == 2 and joined.domains is not None
        assert joined.domains["metric"].to_list() == ["total_mean", "excess"]
    later = join(of_layers(1.0, "total_mean", delta=1.0), of_layers(2.0, "total_mean", delta=2.0))
    assert later.metrics.filter(analysis="layers")["value"].to_list() == [2.0]


def test_earlier_layers_stay_as_stored_where_the_last_alone_is_measured_again() -> None:
    stored = of_layers(1.0, "total_mean", "excess", delta=1.0, first_order=1.0)
    joined = join(stored, tables(2.0, "ablation", "routing", delta=2.0, norm=2.0))
    assert set(joined.metrics.filter(analysis="layers")["metric"]) == {"total_mean", "excess"}
    rows = joined.neurons.select("layer", "neuron", "delta", "first_order", "norm").rows()
    assert rows == [(1, 0, 1.0, 1.0, None), (2, 0, 2.0, 1.0, 2.0), (2, 1, 2.0, None, 2.0)]


def test_only_what_is_lacking_of_layers_and_domains_is_measured_again(
    tiny: SuiteSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"suite": "mine"}
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="mine", config=config, config_digest=config_digest(config))
    run, record = open_run(tmp_path / "run", manifest), CheckpointRecord(revision="r", commit="a", digests={})
    write_step(run, 4, record, tables(1.0, "ablation", "heavytail", delta=1.0))
    asked: list[tuple[str, bool]] = []

    def analyse(sweep: Sweep, *rest: object) -> StepTables:
        asked.append((sweep.options.layers, sweep.with_domains))
        return tables(2.0, *sweep.options.analyses)

    monkeypatch.setattr(Sweep, "analyse", analyse)
    for further in ("routing", "dimensionality", "regimes"):
        options = StepOptions(analyses=("ablation", further), layers="all")
        sweep = Sweep(tiny, None, {}, config, options)
        analyse_lacking(sweep, run, Checkpoint(4, tmp_path, "r", "a", {}), lambda stage: None, parity=False)
    assert asked == [("all", False), ("all", False), ("all", True)]


@pytest.mark.parametrize("there", [(), ("head_effect_max_below",), ("profile_r", "direct_mediation")])
def test_analyses_that_earlier_layers_lack_are_lacking_though_the_last_has_them(
    tmp_path: Path, there: tuple[str, ...]
) -> None:
    config = {"suite": "mine", "layers": "all"}
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="mine", config=config, config_digest=config_digest(config))
    run, record = open_run(tmp_path / "run", manifest), CheckpointRecord(revision="r", commit="a", digests={})
    asked = ("ablation", "regimes", "routing", "mediation")
    write_step(run, 4, record, with_layers(tables(1.0, *asked), "total_mean", *there))
    assert lacking(run, 4, asked) == asked[2 + len(there) :]
    assert (4 in done_with(run, asked)) == (len(there) == 2)
    write_step(run, 8, record, tables(1.0, *asked))
    assert lacking(run, 8, asked) == (), "a run without earlier layers lacks nothing of them"
