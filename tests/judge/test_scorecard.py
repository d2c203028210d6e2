"""The scorecard on planted stores: every verdict of every claim, stand-ins, gaps, and what is written."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from store.test_run import manifest
from support.planted_scorecard import (
    BY_LAYER,
    FINAL,
    PLATEAU_CLAIMS,
    STEPS,
    Change,
    edit,
    measured,
    no_plateau,
    planted,
    rows_of,
    store,
    verdict,
)

from rtdyn.analyses.influence.losses import mean_losses
from rtdyn.capture.forward_pass import Capture
from rtdyn.errors import InputError
from rtdyn.judge.claims import CLAIMS
from rtdyn.judge.scorecard import CONTRADICTED, SUPPORTED, UNDETERMINED, scorecard
from rtdyn.store.run import open_run
from rtdyn.store.schema import Metric
from rtdyn.tables.influence import loss_metrics
from rtdyn.views.terminal.scorecard import HEADS_NOTE, claim_cells, claims, print_claims


def test_every_claim_is_supported_where_all_hold(tmp_path: Path) -> None:
    rows = scorecard(planted(tmp_path / "run"))
    assert {r.claim for r in rows} == {c.name for c in CLAIMS}
    assert [(r.claim, r.verdict, r.reason) for r in rows if r.verdict != SUPPORTED] == []
    assert {r.step for r in rows} == {64}
    by_layer = [r.layer for r in rows if r.claim == "layer-effect"]
    assert by_layer == [FINAL - 1, FINAL]
    emerged = {r.claim: (r.emerged, r.emerged_after) for r in rows}
    # what rests on the planted p-values or the excess emerges with them, what held all along does at the start
    for claim in ("three-regimes-rare", "plateau-size", "rare-against-common", "lower-dimensionality"):
        assert emerged[claim] == (4, 2), claim
    assert emerged["no-gini-difference"] == emerged["no-plateau-common"] == (0, None)
    assert emerged["tail-grows"] == (None, None)
    # α < 2 on its own from step 32 on: 3·33^−0.2·1.2 = 1.79, and 17^−0.2·3.6 = 2.04; too short a run to last
    assert emerged["heavy-tailed"] == (None, None)
    slope = next(r for r in rows if r.claim == "tail-grows").checks[0]
    assert slope.value == pytest.approx(-0.2) and slope.ci_high is not None and slope.ci_high < 0


def test_earlier_layers_are_judged_each_by_its_own_curve_where_the_run_has_them(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", manifest())
    for step in STEPS:
        rows = measured(step)
        curve = [replace(row, analysis="layers", layer=FINAL - 2) for row in rows if row.analysis == "regimes"]
        flat = {"value": -0.5, "ci_low": -0.9, "ci_high": -0.1}
        store(run, step, [*rows, *(replace(r, **flat) if r.metric == "excess" else r for r in curve)])
    found = {(r.claim, r.layer): r.verdict for r in scorecard(run)}
    assert found["three-regimes-rare", None] == found["plateau-size", None] == SUPPORTED
    assert found["three-regimes-rare", FINAL - 2] == CONTRADICTED
    assert found["plateau-size", FINAL - 2] == UNDETERMINED, "its gate, a raised top, does not hold"
    assert found["no-plateau-common", FINAL - 2] == SUPPORTED
    of_curves = {"three-regimes-rare", "plateau-size", "no-plateau-common"}
    assert {claim for claim, layer in found if layer == FINAL - 2} == of_curves, "no groups were measured there"


def test_earlier_layers_are_judged_each_by_its_own_groups_where_the_run_has_them(tmp_path: Path) -> None:
    """Two layers, of which one acts in as many dimensions as its nulls, and in the other the top alone has a value."""
    run = open_run(tmp_path / "run", manifest())
    for step in STEPS:
        rows = measured(step)
        of_groups = [r for r in rows if r.analysis in ("dimensionality", "modularity", "heavytail")]
        wide = edit("d_eff", null_mean=20.0, p_value=0.8)
        there = [replace(wide(row, step) or row, analysis="layers", layer=FINAL - 2) for row in of_groups]
        top_alone = [replace(no_plateau(row, step), analysis="layers", layer=FINAL - 1) for row in of_groups]
        store(run, step, [*rows, *there, *top_alone])
    found = {(r.claim, r.layer): r for r in scorecard(run)}
    of_claims = {"lower-dimensionality", "no-modular-cluster", "heavy-tailed", "tail-grows"}
    for layer in (FINAL - 2, FINAL - 1):
        assert {c for c, at in found if at == layer and c not in BY_LAYER} == of_claims
    assert {found[claim, None].verdict for claim in of_claims} == {SUPPORTED}
    assert found["lower-dimensionality", FINAL - 2].verdict == UNDETERMINED
    assert {found[c, FINAL - 2].verdict for c in of_claims - {"lower-dimensionality"}} == {SUPPORTED}
    for claim in of_claims:
        row = found[claim, FINAL - 1]
        assert (row.group, row.verdict, row.is_stand_in) == ("top", UNDETERMINED, True)


def test_routing_of_earlier_layers_is_judged_for_the_heads_of_each_layer_that_reaches_them(tmp_path: Path) -> None:
    """Heads below drive the neurons of one layer, and its attention is of another concentration for rare targets."""
    early = FINAL - 2
    run = open_run(tmp_path / "run", manifest())
    for step in STEPS:
        rows = measured(step)
        of_last = [r for r in rows if r.analysis == "routing" and r.layer == FINAL]
        there = [replace(r, analysis="layers", layer=early) for r in of_last]
        strong = {"value": 0.6, "ci_low": 0.5, "ci_high": 0.7}
        below = [
            replace(r, metric=f"{r.metric}_below", **(strong if r.metric == "head_effect_max" else {}))
            for r in there
            if r.group is not None
        ]
        wide = edit("gini_difference", value=0.2, ci_low=0.15, ci_high=0.25)
        store(run, step, [*rows, *(wide(r, step) or r for r in there), *below])
    rows = scorecard(run)
    found = {(r.claim, r.layer, r.heads): r.verdict for r in rows}
    assert len(found) == len({(r.claim, r.layer, r.heads, r.matrix) for r in rows})
    assert found["single-head-small", early, "heads below"] == found["no-gini-difference", early, None] == CONTRADICTED
    for claim in ("single-head-small", "layer-effect"):
        places = ((early, "own heads"), (FINAL, None), (FINAL - 1, None))
        assert {found[claim, *place] for place in places} == {SUPPORTED}
    assert found["layer-effect", early, "heads below"] == found["attention-alike", early, None] == SUPPORTED
    assert found["no-gini-difference", FINAL, None] == SUPPORTED
    shown = next(claim_cells(r) for r in rows if r.heads == "heads below")
    assert shown["claim"] == f"single-head-small, layer {early}, heads below"
    assert shown["statistic"].endswith("heads below (plateau)")
    said = [io.StringIO(), io.StringIO()]
    for text, of in zip(said, (rows, [r for r in rows if r.heads is None]), strict=True):
        print_claims(of, Console(file=text, width=200))
    assert [HEADS_NOTE in text.getvalue() for text in said] == [True, False]


def test_a_model_of_one_layer_has_no_layer_before_it(tmp_path: Path) -> None:
    def alone(row: Metric, step: int) -> Metric | None:
        return replace(row, layer=0) if row.layer == FINAL else None

    rows = scorecard(planted(tmp_path / "run", alone))
    assert {r.layer for r in rows} == {None, 0}
    assert [r.layer for r in rows if r.claim in BY_LAYER] == [0] * len(BY_LAYER)


def test_where_the_last_layer_alone_is_measured_nothing_is_said_of_others(tmp_path: Path) -> None:
    run = planted(tmp_path / "run", lambda row, step: None if row.analysis == "layers" else row)
    assert {c.name for c in CLAIMS} - {r.claim for r in scorecard(run)} == {"localised-final"}


against = CONTRADICTED
CASES: list[tuple[str, Change, str, str]] = [
    ("localised-final", edit("final_layer_share", value=0.3, ci_low=0.2, ci_high=0.4), against, "below 0.5"),
    ("localised-final", edit("final_layer_share", ci_low=0.45), UNDETERMINED, "reaches beyond 0.5"),
    ("three-regimes-rare", edit("excess", "rare", value=-0.5, ci_low=-0.9, ci_high=-0.1), against, "below 0"),
    ("three-regimes-rare", edit("excess", "rare", ci_low=-0.05), UNDETERMINED, "reaches beyond 0"),
    ("three-regimes-rare", edit("shape_p_value", "rare", value=0.2, p_value=0.2), UNDETERMINED, "p = 0.2 against"),
    ("three-regimes-rare", edit("decay_slope", value=-0.3), UNDETERMINED, "decay slope + κ: 0.2 is not below 0"),
    ("plateau-size", edit("plateau_fraction", ci_low=0.003), UNDETERMINED, "reaches beyond 0.005 to 0.02"),
    ("plateau-size", edit("plateau_fraction", value=0.1, ci_low=0.08, ci_high=0.12), against, "lies above 0.005 to"),
    ("plateau-size", edit("plateau_fraction", value=0.006, ci_low=None, at_edge=True), UNDETERMINED,
     "the boundary lies at the edge of what the fit can find"),
    ("plateau-size", edit("plateau_fraction", value=0.1, ci_low=0.08, ci_high=None, at_edge=True), UNDETERMINED,
     "the boundary lies at the edge of what the fit can find"),
    ("plateau-size", edit("plateau_fraction", ci_low=0.001, ci_high=0.003, value=0.002), against, "lies below"),
    ("no-plateau-common", edit("excess", "common", value=0.2, ci_high=0.4), UNDETERMINED, "90 % interval reaches"),
    ("no-plateau-common", edit("excess", "common", ci_high=0.25), SUPPORTED, ""),
    ("no-plateau-common", edit("excess", "common", value=0.6, ci_low=0.4, ci_high=0.8), UNDETERMINED, "but largest"),
    ("rare-against-common", edit("contrast_excess", p_value=0.06), UNDETERMINED, "p = 0.06 against pseudo-class"),
    ("rare-against-common", edit("contrast_excess", value=-0.2), against, "below pseudo-class (p = 0.001)"),
    ("rare-against-common", edit("contrast_excess", value=0.1), UNDETERMINED, "equal to the mean"),
    ("lower-dimensionality", edit("d_eff", where={"null": "selected"}, p_value=0.3), UNDETERMINED, "against selected"),
    ("lower-dimensionality", edit("d_eff", where={"null": "random"}, p_value=0.3), SUPPORTED, ""),
    ("lower-dimensionality", edit("d_eff", where={"null": "matched"}, null_mean=12.0), SUPPORTED, ""),
    ("lower-dimensionality", edit("d_eff", where={"null": "selected"}, null_mean=12.0), against, "above selected"),
    ("no-modular-cluster", edit("q_excess", null_sd=0.08), UNDETERMINED, "90 % interval reaches beyond 0.1"),
    ("no-modular-cluster", edit("q_excess", value=0.1, null_sd=0.03), SUPPORTED, ""),
    ("no-modular-cluster", edit("q_excess", where={"null": "matched"}, null_mean=-0.4), SUPPORTED, ""),
    ("no-modular-cluster", edit("inside_share", value=0.4), against, "share of edges inside"),
    ("no-modular-cluster", edit("inside_share", null_sd=0.0), UNDETERMINED, "its null does not vary"),
    ("attention-alike", edit("profile_r", ci_low=0.8), UNDETERMINED, "95 % interval reaches beyond 0.84"),
    ("attention-alike", edit("profile_r", value=0.7, ci_low=0.6, ci_high=0.8), against, "lies below 0.84"),
    ("attention-alike", edit("profile_r", value=0.99, ci_low=0.98, ci_high=0.995), SUPPORTED, ""),
    ("attention-alike", edit("profile_r_plain", value=0.3, p_value=0.005), SUPPORTED, ""),
    ("no-gini-difference", edit("gini_difference", ci_high=0.05), UNDETERMINED, "90 % interval"),
    ("no-gini-difference", edit("gini_difference", value=0.03, ci_low=0.01, ci_high=0.05), UNDETERMINED, "reaches"),
    ("no-gini-difference", edit("gini_difference", value=-0.1, ci_low=-0.12, ci_high=-0.08), against, "lies below"),
    ("single-head-small", edit("head_effect_max", ci_low=-0.2), UNDETERMINED, "reaches"),
    ("single-head-small", edit("head_effect_max", value=-0.3, ci_low=-0.4, ci_high=-0.2), against, "lies below"),
    ("layer-effect", edit("layer_effect", ci_low=-0.6), UNDETERMINED, "reaches beyond -0.55 to -0.4"),
    ("layer-effect", edit("layer_effect", value=0.0, ci_low=-0.01, ci_high=0.01), against, "lies above"),
    ("heavy-tailed", edit("hill_alpha_half", ci_high=2.1), UNDETERMINED, "95 % interval reaches beyond 2"),
    ("heavy-tailed", edit("hill_alpha_half", p_value=0.5), UNDETERMINED, "p = 0.5 against selected"),
    ("heavy-tailed", edit("hill_alpha_half", where={"null": "matched"}, p_value=0.5), SUPPORTED, ""),
    ("heavy-tailed", edit("hill_alpha_half", value=4.0, ci_low=3.0, ci_high=5.0), against, "lies above 2"),
    ("tail-grows", edit("hill_alpha_half", value=3.0), UNDETERMINED, "α and slope of ln(α / mean of selected sets): "),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "change", "expected", "reason"), CASES)
def test_each_verdict_has_its_planted_case(
    tmp_path: Path, claim: str, change: Change, expected: str, reason: str
) -> None:
    found, why = verdict(tmp_path / "run", claim, change)
    assert found == expected and reason in why


def test_every_claim_has_been_contradicted_and_left_open_in_a_planted_case() -> None:
    both = {(claim, expected) for claim, _, expected, _ in CASES} | {
        ("tail-grows", CONTRADICTED),
        ("no-plateau-common", CONTRADICTED),
    }
    for claim in CLAIMS:
        assert {(claim.name, CONTRADICTED), (claim.name, UNDETERMINED)} <= both, claim.name


@pytest.mark.parametrize("clusters", [None, 6, 40])
def test_a_claim_emerges_by_the_level_it_is_judged_at_and_on_its_own_side(tmp_path: Path, clusters: int | None) -> None:
    # one-sided p = 0.04 at every step: an equivalence (two tests at 5 %), no effect (95 % interval)
    known = stats.norm() if clusters is None else stats.t(clusters - 1)
    reach = known.ppf(0.975) / known.ppf(0.96)
    within = edit("gini_difference", value=0.002, ci_low=-0.01, ci_high=0.002 + 0.018 * reach, clusters=clusters)
    assert [r.emerged for r in rows_of(planted(tmp_path / "a", within), "no-gini-difference")] == [0, 0]
    beyond = edit("excess", "rare", value=0.5, ci_low=0.5 - 0.5 * reach, ci_high=1.0, clusters=clusters)
    row = rows_of(planted(tmp_path / "b", beyond), "three-regimes-rare")[0]
    assert (row.verdict, row.emerged) == (UNDETERMINED, None)

    def above_at_first(row: Metric, step: int) -> Metric:
        return replace(row, p_value=0.001, null_mean=26.0 if step >= 8 else 12.0) if row.metric == "d_eff" else row

    row = rows_of(planted(tmp_path / "c", above_at_first), "lower-dimensionality")[0]
    assert (row.verdict, row.emerged, row.emerged_after) == (SUPPORTED, 8, 4)


def test_a_raised_common_top_contradicts_only_with_its_shape_p(tmp_path: Path) -> None:
    def change(row: Metric, step: int) -> Metric:
        row = edit("shape_p_value", "common", value=0.001, p_value=0.001)(row, step) or row
        return edit("excess", "common", value=0.6, ci_low=0.4, ci_high=0.8)(row, step) or row

    found, why = verdict(tmp_path / "run", "no-plateau-common", change)
    assert found == CONTRADICTED and why == "excess of the top, ln units: the 95 % interval lies above 0.223"


def test_a_plateau_of_another_size_counts_only_where_there_is_a_plateau(tmp_path: Path) -> None:
    def change(row: Metric, step: int) -> Metric:
        row = edit("plateau_fraction", value=0.1, ci_low=0.08, ci_high=0.12)(row, step) or row
        return edit("shape_p_value", "rare", value=0.3, p_value=0.3)(row, step) or row

    found, why = verdict(tmp_path / "run", "plateau-size", change)
    assert found == UNDETERMINED and "lies above" in why and "but largest shape p" in why


def test_the_fall_of_alpha_is_not_the_fall_of_every_sets(tmp_path: Path) -> None:
    def all_fall(row: Metric, step: int) -> Metric:
        return replace(row, null_mean=row.value) if row.metric == "hill_alpha_half" else row

    found, why = verdict(tmp_path / "all", "tail-grows", all_fall)
    assert found == UNDETERMINED and why.startswith("slope of ln(α / mean of selected sets)")

    def rises(row: Metric, step: int) -> Metric:
        return replace(row, value=1.0 + 0.1 * math.log1p(step)) if row.metric == "hill_alpha_half" else row

    assert verdict(tmp_path / "rises", "tail-grows", rises) == (
        CONTRADICTED, "slope of ln α: the 95 % interval lies above 0",
    )  # fmt: skip
    few = rows_of(planted(tmp_path / "few", steps=(0, 1, 2, 4)), "tail-grows")[0]
    assert few.verdict == UNDETERMINED and "4 defined steps, too few" in few.reason


def test_without_a_plateau_its_claims_stay_open_beside_the_top(tmp_path: Path) -> None:
    rows = scorecard(planted(tmp_path / "run", no_plateau))
    full = scorecard(planted(tmp_path / "full"))
    for row, whole in zip(rows, full, strict=True):
        if row.claim not in PLATEAU_CLAIMS:
            assert row == whole
            continue
        assert (row.verdict, row.group, row.emerged) == (UNDETERMINED, "top", None)
        assert "undefined for the plateau (no neuron is a member in more than half of the draws)" in row.reason
        assert row.reason.endswith("shown is the top 1 % (at least 32 neurons), which would be supported")
        assert row.checks[0].value == whole.checks[0].value
    worse = planted(tmp_path / "worse", lambda r, s: no_plateau(edit("d_eff", null_mean=12.0)(r, s) or r, s))
    row = rows_of(worse, "lower-dimensionality")[0]
    assert row.verdict == UNDETERMINED and row.reason.endswith("would be contradicted")


def test_an_analysis_not_asked_for_leaves_its_claims_open(tmp_path: Path) -> None:
    rows = scorecard(planted(tmp_path / "run", lambda row, step: None if row.analysis == "routing" else row))
    for row in rows:
        if row.claim in ("attention-alike", "no-gini-difference", "single-head-small", "layer-effect"):
            assert (row.verdict, row.emerged) == (UNDETERMINED, None)
            assert "the analysis routing was not asked for" in row.reason and row.group in (None, "plateau")
            assert row.emergence_reason == "undefined at every step"
        else:
            assert row.verdict == SUPPORTED


def test_claims_that_structure_leaves_nothing_to_be_decided_by_have_no_row(tmp_path: Path) -> None:
    """A parallel residual in every layer. In the earlier one, too, no plateau has neurons, so that `top` alone says."""
    early = FINAL - 2
    reason = "structural: with a parallel residual a layer's attention cannot reach its own MLP"
    undefined = dict.fromkeys(("value", "ci_low", "ci_high", "null", "null_mean", "null_sd", "p_value", "clusters"))

    def own(row: Metric, group: str, why: str) -> Metric:
        return replace(row, group=group, reason=why, **undefined)

    run = open_run(tmp_path / "run", manifest())
    for step in STEPS:
        rows = measured(step)
        of_heads = [r for r in rows if r.metric in ("head_effect_max", "layer_effect") and r.null == "selected"]
        of_last = [r for r in of_heads if r.layer == FINAL and r.group == "plateau"]
        there = [replace(r, analysis="layers", layer=early) for r in of_last]
        below = [replace(r, metric=f"{r.metric}_below") for r in there]
        nobody = [own(r, "plateau", "no plateau neuron") for r in there]
        others = [r for r in rows if r.layer != FINAL or r.metric not in ("head_effect_max", "layer_effect")]
        structural = [own(r, group, reason) for r in of_last for group in ("plateau", "top")]
        store(run, step, [*others, *structural, *nobody, *(own(r, "top", reason) for r in there), *below])
    for claim in ("single-head-small", "layer-effect"):
        assert [(r.layer, r.heads, r.verdict) for r in rows_of(run, claim)] == [
            (FINAL - 1, None, SUPPORTED),
            (early, "heads below", SUPPORTED),
        ]
    text = io.StringIO()
    claims(run.path, False, Console(file=text, width=300))
    assert f"what the own heads of layers {early} and {FINAL} do to the neurons there" in text.getvalue()
    assert "structural" not in text.getvalue()
    without, said = planted(tmp_path / "sequential"), io.StringIO()
    claims(without.path, False, Console(file=said, width=300))
    assert "own heads of layer" not in said.getvalue() and len(rows_of(without, "layer-effect")) == 2


def test_a_gated_mlps_matrices_are_judged_each_for_itself(tmp_path: Path) -> None:
    def gated(row: Metric, step: int) -> list[Metric]:
        if row.metric != "hill_alpha_half":
            return [row]
        up = replace(row, metric="hill_alpha_half_up", value=5.0, ci_low=4.0, ci_high=6.0)
        return [replace(row, metric="hill_alpha_half_gate"), up]

    run = open_run(tmp_path / "run", manifest())
    for step in STEPS:
        store(run, step, [new for row in measured(step) for new in gated(row, step)])
    gate, up = rows_of(run, "heavy-tailed")
    assert (gate.matrix, gate.verdict, up.matrix, up.verdict) == ("gate", SUPPORTED, "up", CONTRADICTED)
    assert gate.checks[0].metric == "hill_alpha_half_gate" and up.checks[0].value == 5.0
    assert [r.matrix for r in rows_of(run, "tail-grows")] == ["gate", "up"]


@pytest.mark.slow
def test_what_the_store_lacks_is_said(tmp_path: Path) -> None:
    no_interval = edit("profile_r", ci_low=None, ci_high=None)
    found = verdict(tmp_path / "a", "attention-alike", no_interval)
    assert found[1] == "Pearson r of profiles without noise: no interval is stored"
    no_null = edit(
        "d_eff", where={"null": "selected"}, p_value=None, null_mean=None, reason="there are no pseudo-classes"
    )
    found = verdict(tmp_path / "b", "lower-dimensionality", no_null)
    assert found == (UNDETERMINED, "d_eff: there are no pseudo-classes")
    unstored = verdict(tmp_path / "c", "lower-dimensionality",
                       lambda r, s: None if r.metric == "d_eff" and r.null == "selected" else r)  # fmt: skip
    assert unstored == (UNDETERMINED, "d_eff: its null (selected) is not stored")

    def both_layers_as_one(row: Metric, step: int) -> Metric:
        return replace(row, layer=FINAL, value=row.layer) if row.metric == "gini_difference" else row

    twice = verdict(tmp_path / "d", "no-gini-difference", both_layers_as_one)
    assert twice[0] == UNDETERMINED and "holds 2 rows of routing/gini_difference with different value" in twice[1]
    last_only = verdict(tmp_path / "e", "no-gini-difference",
                        lambda r, s: None if r.metric == "gini_difference" and s == 64 else r)  # fmt: skip
    assert last_only == (UNDETERMINED, "difference of Gini coefficients: not measured at this step")


def test_the_last_sound_step_counts(tmp_path: Path) -> None:
    change = edit("layer_effect", value=0.0, ci_low=-0.01, ci_high=0.01)
    run = planted(
        tmp_path / "run",
        lambda row, step: change(row, step) if step == 64 else row,
        left_out={64: "it holds the same weights as step 0"},
    )
    row = rows_of(run, "layer-effect")[0]
    assert (row.verdict, row.step) == (SUPPORTED, 32)
    few = planted(tmp_path / "few", steps=(0, 1, 64), left_out={64: "why"})
    with pytest.raises(InputError, match="fewer than 3 distinct steps"):
        scorecard(few)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(0.0005, 0.2), st.floats(0.0005, 0.2))
def test_a_wider_interval_never_decides_more(
    tmp_path_factory: pytest.TempPathFactory, value: float, left: float, right: float
) -> None:
    def at(scale: float) -> str:
        ends = {"ci_low": value - scale * left, "ci_high": value + scale * right}

        def change(row: Metric, step: int) -> Metric | None:
            return replace(row, value=value, **ends) if row.metric == "gini_difference" else None

        run = planted(tmp_path_factory.mktemp("x") / "run", change, steps=(0, 1, 2))
        return scorecard(run, tuple(c for c in CLAIMS if c.name == "no-gini-difference"))[0].verdict

    narrow, wide = at(1.0), at(2.0)
    assert wide in (narrow, UNDETERMINED)
    if narrow == SUPPORTED:
        assert abs(value) < 0.02
    if narrow == CONTRADICTED:
        assert abs(value) > 0.02


def test_the_bundled_checkpoints_give_an_open_scorecard_without_the_analyses(
    captured: Callable[[int], Capture], tmp_path: Path
) -> None:
    run = open_run(tmp_path / "run", manifest())
    for step in (1, 512, 4000):
        store(run, step, loss_metrics(mean_losses(captured(step), 256, np.arange(999))))
    rows = scorecard(run)
    assert {row.verdict for row in rows} == {UNDETERMINED} and all(row.emerged is None for row in rows)
    assert all("was not asked for" in row.reason for row in rows)
