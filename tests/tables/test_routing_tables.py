"""Rows of routing: a number beside its null, or the reason why it has none."""

from __future__ import annotations

import numpy as np
import pytest
from analyses.routing.captures import attention_capture, case, context, random_attention, split
from model.test_families import CASES

from rtdyn.analyses.context import Context
from rtdyn.analyses.routing.differences import class_differences
from rtdyn.analyses.routing.head_effects import SplitEffects
from rtdyn.analyses.routing.matching import matched_positions
from rtdyn.analyses.routing.profiles import Correlation, MeanAttention, attention_profiles
from rtdyn.analyses.routing.routing import Routing, routing
from rtdyn.analyses.statistics import Comparison
from rtdyn.names import COMMON, RANDOM, RARE
from rtdyn.store.schema import Metric, metric_frame
from rtdyn.tables.routing import routing_rows
from rtdyn.tables.step_rows import StepRows
from rtdyn.undefined import Undefined

HEADS = 4


@pytest.fixture(scope="module")
def measured() -> tuple[Routing, Context]:
    """Three windows of a random model whose queries are too few for a profile, and whose blocks are too few for a p."""
    config = next(c.values[0] for c in CASES if c.id == "llama-0")
    _, captured, _ = case(config)
    rng = np.random.default_rng(0)
    sets = [np.stack([rng.choice(40, 5, replace=False) for _ in range(19)]) for _ in (0, 1)]
    groups = {
        "top": split("top", np.arange(5), np.arange(3, 8), sets={RANDOM: (sets[0], sets[1])}),
        "plateau": Undefined("no plateau neuron on one half of the windows"),
    }
    of_model = context(captured, groups)
    return routing(of_model), of_model


def rows_of(rows: StepRows, metric: str) -> list[Metric]:
    return [row for row in rows.metrics if row.metric == metric]


def test_effects_have_a_row_for_each_head_and_null(measured: tuple[Routing, Context]) -> None:
    result, of_model = measured
    rows = routing_rows(result, of_model)
    assert metric_frame(list(rows.metrics), 1, None)["analysis"].unique().to_list() == ["routing"]
    for token_class, suffix in ((RARE, ""), (COMMON, "_common")):
        effects = [by_class[token_class]["top"] for by_class in result.effects]
        for name in ("strongest", "layer"):
            metric = {"strongest": "head_effect_max", "layer": "layer_effect"}[name] + suffix
            of_top = [row for row in rows_of(rows, metric) if row.group == "top"]
            for row, layer, effect in zip(of_top, result.layers, effects, strict=True):
                assert isinstance(effect, SplitEffects)
                signed = getattr(effect, name)
                null = signed.value.nulls[RANDOM]
                assert (row.layer, row.null, row.value) == (layer, RANDOM, signed.value.value)
                assert (row.ci_low, row.ci_high) == signed.interval
                assert isinstance(null, Comparison) and (row.null_mean, row.p_value) == (null.null_mean, null.p_value)
            of_plateau = [row for row in rows_of(rows, metric) if row.group == "plateau"]
            assert [row.reason for row in of_plateau] == ["no plateau neuron on one half of the windows"] * 2
        for kind in ("signed", "share", "total"):
            by_head = rows_of(rows, f"head_effect_{kind}{suffix}")
            assert [(row.layer, row.head) for row in by_head] == [(i, h) for i in result.layers for h in range(HEADS)]
            np.testing.assert_array_equal(
                [row.value for row in by_head], np.concatenate([getattr(e, kind) for e in effects])
            )


def test_too_few_windows_and_queries_are_reasons(measured: tuple[Routing, Context]) -> None:
    result, of_model = measured
    rows = routing_rows(result, of_model)
    assert [row.value for row in rows_of(rows, "matched_positions")] == [len(result.matched.rare)]
    for metric in ("profile_r", "profile_r_without_bos"):
        profiles = rows_of(rows, metric)
        assert [(row.layer, row.value) for row in profiles] == [(layer, None) for layer in result.layers]
        assert all(str(row.reason).startswith("0 queries of each class") for row in profiles)
    for metric, by_layer in (("gini_difference", result.gini), ("bos_difference", result.bos)):
        differences = rows_of(rows, metric)
        assert [row.head for row in differences] == [*range(HEADS), None] * 2
        np.testing.assert_array_equal(
            [row.value for row in differences], np.concatenate([d.difference for d in by_layer])
        )
        assert {(row.p_value, row.ci_low, row.reason) for row in differences} == {(None, None, by_layer[0].reason)}
    assert not rows.lines


def test_profiles_and_differences_stand_beside_their_nulls() -> None:
    rng = np.random.default_rng(0)
    attention, query, rare = random_attention(rng)
    attention[:, 1] = np.where(np.arange(24) <= query[:, None], 1.0, 0.0)[:, None]
    attention /= attention.sum(-1, keepdims=True)
    captured = attention_capture(attention, query, rare)
    matched = matched_positions(captured.positions, rng)
    profiles = attention_profiles(captured, rng, offsets=8, draws=19)
    gini, bos = class_differences(captured, matched, rng)
    result = Routing((0, 1), matched, profiles, gini, bos, (), ({}, {}))
    rows = routing_rows(result, context(captured, {}))
    mean, *by_head = (row for row in rows_of(rows, "profile_r") if row.layer == 0)
    r = profiles[0].with_bos
    assert isinstance(r, Correlation) and isinstance(r.null, Comparison)
    assert (mean.head, mean.value, mean.ci_low, mean.ci_high) == (None, r.mean, r.low, r.high)
    assert (mean.null, mean.p_value, mean.n) == ("resampling", r.null.p_value, profiles[0].n)
    assert [(row.head, row.value) for row in by_head] == [*enumerate(r.by_head.tolist())]
    for k, row in enumerate(row for row in rows_of(rows, "gini_difference") if row.layer == 0):
        assert (row.value, row.null, row.p_value) == (gini[0].difference[k], "permutation", gini[0].p_value[k])
        assert (row.ci_low, row.ci_high) == gini[0].interval(k) and row.ci_low is not None
    classes = [(line["kind"], line["token_class"], line["layer"]) for line in rows.lines]
    kinds = ("attention_first", "attention")
    assert classes == [(kind, name, layer) for layer in (0, 1) for name in (RARE, COMMON) for kind in kinds]
    attended = profiles[0].attention
    assert isinstance(attended, MeanAttention)
    np.testing.assert_array_equal(rows.lines[3]["value"], attended.common[:, 1:].ravel())
    np.testing.assert_array_equal(rows.lines[3]["low"], attended.common_low[:, 1:].ravel())
    assert np.isnan(rows.lines[1]["low"]).all()
