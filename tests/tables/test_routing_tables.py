"""Rows of routing: a number beside its null, or the reason why it has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from analyses.routing.captures import NO_PSEUDO, attention_capture, case, context, random_attention, split
from model.test_families import CASES

from rtdyn.analyses.context import Context
from rtdyn.analyses.routing.differences import class_differences
from rtdyn.analyses.routing.head_effects import SplitEffects
from rtdyn.analyses.routing.matching import matched_positions
from rtdyn.analyses.routing.profiles import Correlation, MeanAttention, attention_profiles
from rtdyn.analyses.routing.reference import PseudoSets, reference
from rtdyn.analyses.routing.routing import Routing, routing
from rtdyn.analyses.statistics import Comparison, Estimate
from rtdyn.capture.forward_pass import Capture
from rtdyn.names import COMMON, PSEUDO_CLASS, RANDOM, RARE
from rtdyn.store.schema import Metric, metric_frame
from rtdyn.tables.routing import routing_rows
from rtdyn.tables.step_rows import StepRows
from rtdyn.text.pseudo_classes import overlap, pseudo_classes
from rtdyn.undefined import Undefined

HEADS = 4


@pytest.fixture(scope="module")
def measured() -> tuple[Routing, Context]:
    """Three windows of a random model, whose queries are too few for a profile, and no pseudo-classes."""
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
                assert row.clusters == signed.clusters == 3
                assert isinstance(null, Comparison) and (row.null_mean, row.p_value) == (null.null_mean, null.p_value)
            of_plateau = [row for row in rows_of(rows, metric) if row.group == "plateau"]
            assert [row.reason for row in of_plateau] == ["no plateau neuron on one half of the windows"] * 2
        for kind in ("signed", "share", "total"):
            by_head = rows_of(rows, f"head_effect_{kind}{suffix}")
            assert [(row.layer, row.head) for row in by_head] == [(i, h) for i in result.layers for h in range(HEADS)]
            np.testing.assert_array_equal(
                [row.value for row in by_head], np.concatenate([getattr(e, kind) for e in effects])
            )


def test_too_few_queries_and_no_pseudo_classes_are_reasons(measured: tuple[Routing, Context]) -> None:
    result, of_model = measured
    rows = routing_rows(result, of_model)
    assert [row.value for row in rows_of(rows, "matched_positions")] == [len(result.matched.rare)]
    for metric in ("profile_r", "profile_r_without_bos", "profile_r_plain", "profile_r_without_bos_plain"):
        profiles = rows_of(rows, metric)
        assert [(row.layer, row.value) for row in profiles] == [(layer, None) for layer in result.layers]
        assert all(str(row.reason).startswith("0 rare queries at position 32 or later") for row in profiles)
    for metric, by_layer in (("gini_difference", result.gini), ("bos_difference", result.bos)):
        differences = rows_of(rows, metric)
        assert [row.head for row in differences] == [*range(HEADS), None] * 2
        np.testing.assert_array_equal(
            [row.value for row in differences], np.concatenate([d.difference for d in by_layer])
        )
        assert {(row.null, row.p_value, row.clusters, row.reason) for row in differences} == {
            (PSEUDO_CLASS, None, 3, NO_PSEUDO.reason)
        }
        assert [(row.ci_low, row.ci_high) for row in differences] == [d.interval(k) for d in by_layer for k in range(5)]
        assert all(row.ci_low is not None for row in differences)
    assert not rows.lines


def planted_result(captured: Capture) -> tuple[Routing, Context]:
    """Profiles and differences of a capture whose windows are clusters, among 39 pseudo-classes."""
    members = pseudo_classes(captured.positions, draws=39)
    assert not isinstance(members, Undefined), members
    pseudo = PseudoSets(members, overlap(members))
    windows = np.arange(captured.positions.window.max() + 1)
    profiles = attention_profiles(captured, reference(captured.positions, windows, pseudo, 8), pseudo, offsets=8)
    gini, bos = class_differences(captured, reference(captured.positions, windows, pseudo), pseudo)
    matched = matched_positions(captured.positions, np.random.default_rng(0))
    return Routing((0, 1), (0, 1), matched, profiles, gini, bos, (), ({}, {})), context(captured, {})


def test_profiles_and_differences_stand_beside_their_nulls() -> None:
    attention, query, rare = random_attention(np.random.default_rng(0), n=400, share=0.1)
    attention[:, 1] = np.where(np.arange(24) <= query[:, None], 1.0, 0.0)[:, None]
    attention /= attention.sum(-1, keepdims=True)
    result, of_model = planted_result(attention_capture(attention, query, rare))
    profiles, gini = result.profiles, result.gini
    rows = routing_rows(result, of_model)
    metric_frame(list(rows.metrics), 1, None)
    r = profiles[0].with_bos
    assert isinstance(r, Correlation) and isinstance(r.null, Comparison) and isinstance(r.mean, Estimate)
    mean, *by_head = (row for row in rows_of(rows, "profile_r") if row.layer == 0)
    assert (mean.head, mean.value, mean.ci_low, mean.ci_high) == (None, r.mean.value, r.mean.low, r.mean.high)
    assert (mean.null, mean.clusters, mean.n) == (None, r.mean.clusters, profiles[0].n)
    assert [(row.head, row.value) for row in by_head] == [*enumerate(r.by_head.tolist())]
    plain, *plain_by_head = (row for row in rows_of(rows, "profile_r_plain") if row.layer == 0)
    assert (plain.value, plain.null, plain.null_mean, plain.p_value, plain.ci_low) == (
        r.plain_mean, PSEUDO_CLASS, r.null.null_mean, r.null.p_value, None,
    )  # fmt: skip
    assert [(row.head, row.value) for row in plain_by_head] == [*enumerate(r.plain_by_head.tolist())]
    for k, row in enumerate(row for row in rows_of(rows, "gini_difference") if row.layer == 0):
        against = gini[0].against[k]
        assert isinstance(against, Comparison)
        assert (row.value, row.null, row.p_value) == (gini[0].difference[k], PSEUDO_CLASS, against.p_value)
        assert (row.null_mean, row.null_sd) == (against.null_mean, against.null_sd)
        assert (row.ci_low, row.ci_high) == gini[0].interval(k) and row.ci_low is not None
        assert row.clusters == gini[0].clusters
    flat = profiles[1].without_bos
    assert isinstance(flat, Undefined)
    for metric in ("profile_r_without_bos", "profile_r_without_bos_plain"):
        assert [row.reason for row in rows_of(rows, metric) if row.layer == 1] == [flat.reason]
    classes = [(line["kind"], line["token_class"], line["layer"]) for line in rows.lines]
    kinds = ("attention_first", "attention")
    assert classes == [(kind, name, layer) for layer in (0, 1) for name in (RARE, COMMON) for kind in kinds]
    attended = profiles[0].attention
    assert isinstance(attended, MeanAttention)
    np.testing.assert_array_equal(rows.lines[3]["value"], attended.common[:, 1:].ravel())
    np.testing.assert_array_equal(rows.lines[3]["low"], attended.common_low[:, 1:].ravel())
    assert np.isnan(rows.lines[1]["low"]).all()


def test_heads_that_noise_hides_or_that_are_flat_have_rows_with_their_reasons() -> None:
    attention, query, rare = random_attention(np.random.default_rng(1), n=400, heads=3, share=0.1)
    # the second head's attention is noise alone, the third's is constant
    attention[:, 0, 1] = np.random.default_rng(0).standard_normal(attention[:, 0, 1].shape)
    attention[:, 0, 2] = 0.25
    result, of_model = planted_result(attention_capture(attention, query, rare))
    rows = routing_rows(result, of_model)
    metric_frame(list(rows.metrics), 1, None)
    by_head = {
        (row.metric, row.head): row
        for row in rows.metrics
        if row.metric.startswith("profile_r_without_bos") and row.layer == 0
    }
    corrected, plain = "profile_r_without_bos", "profile_r_without_bos_plain"
    assert by_head[corrected, 0].value is not None and by_head[plain, 0].p_value is not None
    assert by_head[corrected, 1].reason == "noise hides the head's profile" and by_head[plain, 1].value is not None
    for metric in (corrected, plain):
        assert (by_head[metric, 2].value, by_head[metric, 2].reason) == (None, "the head's profile is constant")
    hidden = Correlation(
        np.full(1, np.nan), np.array([0.3]), (NO_PSEUDO,), Undefined("noise hides every head's profile"), None, 0.3,
        NO_PSEUDO,
    )  # fmt: skip
    profile = replace(result.profiles[0], with_bos=hidden)
    hidden_rows = routing_rows(replace(result, profiles=(profile,)), of_model)
    whole = [row for row in rows_of(hidden_rows, "profile_r") if row.head is None]
    assert [(row.value, row.reason) for row in whole] == [(None, "noise hides every head's profile")]
    beside = [row for row in rows_of(hidden_rows, "profile_r_plain") if row.head is None]
    assert [(row.value, row.null, row.reason) for row in beside] == [(0.3, PSEUDO_CLASS, NO_PSEUDO.reason)]
