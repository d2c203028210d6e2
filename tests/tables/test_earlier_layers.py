"""Layers before the last in a step's tables: every name defined, the last layer's rows as without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import transformers
from analyses.earlier_layers.test_layer import CONFIGS, captured_layers, measured
from model.test_families import random_model
from polars.testing import assert_frame_equal

import rtdyn
from rtdyn.analyses.earlier_layers.sample import Budget
from rtdyn.errors import InputError, UsageError
from rtdyn.names import LAYERS
from rtdyn.store.definitions import COLUMNS, LAYER_METRICS, METRICS, define
from rtdyn.store.metric_names import metric_name
from rtdyn.store.schema import metric_frame
from rtdyn.tables.earlier_layers import (
    ALL_WINDOWS,
    CURVE_METRICS,
    SAMPLE,
    curve_metrics,
    layer_metrics,
    with_earlier_layers,
)
from rtdyn.tables.layer_groups import EXACT_OVERLAP
from rtdyn.text.king_james import held_out_chapters
from rtdyn.views.wandb.rows import top_neurons

SMALL: dict[str, Any] = {
    "tokens": 1024, "window": 32, "min_targets": 10, "rare": ["0.3:0.95"], "positions_per_rare": 1,
    "analyses": ("ablation",), "tolerance": 0.001,
}  # fmt: skip


@pytest.fixture(scope="module")
def analyse(takes_long: None, tiny_folder: Path) -> Callable[[str], Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tiny_folder))
    config = transformers.GPTNeoXConfig(
        vocab_size=2560, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model, text = random_model(config), held_out_chapters()
    return lambda layers: rtdyn.analyse(model, tokenizer, text, layers=layers, **SMALL)


@pytest.fixture(scope="module")
def of_all(analyse: Callable[[str], Any]) -> Any:
    return analyse("all")


def test_the_last_layers_rows_are_those_of_a_run_without_the_others(analyse: Callable[[str], Any], of_all: Any) -> None:
    alone = analyse("last")
    assert "measured" not in alone.neurons.columns and LAYERS not in set(alone.metrics["analysis"])
    assert_frame_equal(of_all.metrics.filter(pl.col("analysis") != LAYERS), alone.metrics)
    last = of_all.neurons.filter(layer=2)
    assert_frame_equal(last.select(alone.neurons.columns), alone.neurons)
    assert set(last["measured"]) == {ALL_WINDOWS}
    assert_frame_equal(of_all.windows, alone.windows)
    assert_frame_equal(top_neurons(of_all.neurons).select(alone.neurons.columns), top_neurons(alone.neurons))


def test_every_row_and_column_is_defined_and_each_layer_has_them_all(of_all: Any) -> None:
    rows = of_all.metrics.filter(analysis=LAYERS)
    assert set(rows["layer"]) == {0, 1, 2} and set(of_all.neurons["layer"]) == {0, 1, 2}
    of_groups = {d for definitions in LAYER_METRICS.values() for d in definitions}
    names = {name for d in METRICS[LAYERS] if d not in of_groups for name in d.names} - {EXACT_OVERLAP}
    of_curve = {*CURVE_METRICS}  # neither regimes nor groups were asked for
    for layer in (0, 1):
        assert set(rows.filter(layer=layer)["metric"]) == names - {"final_layer_share"} - of_curve
    assert rows.filter(layer=2)["metric"].to_list() == ["total_rare_excess", "final_layer_share"]
    for row in rows.iter_rows(named=True):
        definition = define(row["metric"], METRICS[LAYERS])
        assert definition is not None and (definition.interval or row["ci_low"] is None)
    for column in of_all.neurons.columns:
        assert define(column, COLUMNS["neurons"], ["rare", "common"]) is not None, column
    named = [metric_name(row, 2) for row in rows.iter_rows(named=True)]
    assert len(set(named)) == len(named) and "layers/total_mean/rare/L-2" in named


def test_layers_are_counted_from_the_end_and_wrong_ones_refused(analyse: Callable[[str], Any], of_all: Any) -> None:
    middle = analyse("-2")
    assert set(middle.neurons["layer"]) == {1, 2}
    # with a layer below, its stream comes from blocks that run again: types are drawn by numbers rounded otherwise
    assert_frame_equal(middle.neurons.filter(layer=1), of_all.neurons.filter(layer=1), abs_tol=1e-5)
    with pytest.raises(InputError, match="the model has 3 layers; give numbers from -1 to -3"):
        analyse("-4")
    for wrong in ("first", "1", "-1,0", ""):
        with pytest.raises(UsageError, match="give last, all, or numbers from the end"):
            analyse(wrong)


def test_a_sampled_layer_says_of_each_neuron_how_it_is_known() -> None:
    layers = measured(captured_layers(random_model(CONFIGS["llama"])), Budget(top=4, uniform=24, reruns=1.0))
    table = with_earlier_layers(pl.DataFrame({"layer": [2]}), layers, {layer: {} for layer in layers}, 5, "mean_abs")
    for layer, result in layers.items():
        mine = table.filter(layer=layer)
        exact = mine.filter(measured=ALL_WINDOWS)
        assert exact.height == int(result.sample.measured.sum()) < mine.height
        assert set(exact["sample_error_rare"]) == {0.0} == set(exact["sample_error_abs_rare"])
        assert (mine.filter(measured=SAMPLE)["sample_error_rare"] > 0).all()
        assert mine["se_rare"].null_count() == 0
    metrics = metric_frame(layer_metrics(layers, 0), 5, None)
    few = metrics.filter(metric="total_top_share")
    assert set(few["reason"]) == {"the class lies in 3 independent pieces of text, under 8"}


def test_where_the_first_order_is_poor_no_neuron_is_ranked() -> None:
    model = random_model(CONFIGS["llama"])
    for block in model.model.layers[1:]:
        block.self_attn.q_proj.weight.mul_(100)  # attention is all or nothing: its gradient says little of a change
    layers = measured(captured_layers(model), Budget(top=4, uniform=24, reruns=1.0))
    metrics = metric_frame(layer_metrics(layers, 0), 5, None)
    spearman = {row["layer"]: row for row in metrics.filter(metric="first_order_spearman_abs").iter_rows(named=True)}
    ranked = {row["layer"]: row for row in metrics.filter(metric="ranked_neurons").iter_rows(named=True)}
    withheld = [layer for layer, row in spearman.items() if row["ci_low"] < 0.8]
    assert 0 in withheld, "of all neurons the correlation is 0.66 there"
    for layer in layers:
        table = with_earlier_layers(pl.DataFrame({"layer": [2]}), {layer: layers[layer]}, {layer: {}}, 5, "mean_abs")
        rank = table.filter(layer=layer)["rank"].drop_nulls().sort().to_list()
        assert rank == ([] if layer in withheld else list(range(1, 41)))
        assert (layer in withheld) == (ranked[layer]["value"] is None)
        assert layer not in withheld or "under 0.8" in ranked[layer]["reason"]


def test_a_layers_curve_has_every_row_or_the_reason_why_it_has_no_value() -> None:
    for budget in (Budget(top=4, uniform=24, reruns=1.0), Budget(top=10**6, uniform=10**6, reruns=1.0)):
        layers = measured(captured_layers(random_model(CONFIGS["llama"])), budget)
        for layer, result in layers.items():
            rows = curve_metrics(result.curve("rare", "mean_abs", 0), "rare", layer)
            assert tuple(row.metric for row in rows) == CURVE_METRICS
            assert all((row.value is None) == bool(row.reason) for row in rows)
            assert {row.layer for row in rows} == {layer} and {row.analysis for row in rows} == {LAYERS}
    assert rows[-1].value == 0, "all neurons were measured"
