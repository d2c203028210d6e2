"""Two runs of one suite by the papers' design and ours: each statistic from planted rows, and verdicts that turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from support.synthetic import LAYERS, synthetic_run

from rtdyn.errors import InputError
from rtdyn.judge.bands import Estimate
from rtdyn.judge.claims import CLAIMS
from rtdyn.judge.designs import STATISTICS, DesignComparison, DesignRow, compare_designs
from rtdyn.store.definitions import METRICS
from rtdyn.store.run import Run, done_steps, read_run, read_step, write_step
from rtdyn.store.schema import Metric, metric_frame
from rtdyn.undefined import Undefined
from rtdyn.views.terminal.designs import design_table

pytestmark = pytest.mark.slow  # seconds in all: whole runs are planted

FINAL = LAYERS[-1]


def planted(path: Path, rows: Sequence[Metric] = (), steps: int = 5) -> Run:
    """A run with further rows at every step, in place of its own of the same metric and layer."""
    run = read_run(synthetic_run(path, steps, 60))
    for step, record in done_steps(run).items():
        tables = read_step(run, step)
        more = metric_frame(list(rows), step, None) if rows else tables.metrics.clear()
        kept = tables.metrics.join(more, on=["metric", "layer", "token_class"], how="anti", nulls_equal=True)
        write_step(run, step, record, replace(tables, metrics=pl.concat([kept, more])))
    return run


def found(comparison: DesignComparison, metric: str, layer: int | None = None, whose: str = "") -> DesignRow:
    [row] = [
        r for r in comparison.rows
        if r.statistic.metric == metric and r.layer == layer and r.statistic.whose.startswith(whose)
        and r.statistic.token_class == "rare"
    ]  # fmt: skip
    return row


def test_every_statistic_is_of_a_claim_and_of_a_metric_that_is_stored() -> None:
    for s in STATISTICS:
        assert s.metric in {definition.name for definition in METRICS[s.analysis]}, s
    # of a curve's contrast, of a trend and of earlier layers the papers give no number
    assert {c.name for c in CLAIMS} - {s.claim for s in STATISTICS} == {
        "rare-against-common",
        "tail-grows",
        "localised-final",
    }
    for s in STATISTICS:
        assert any(other.whose != "papers'" for other in STATISTICS if other.claim == s.claim), s


def test_a_statistic_is_read_from_either_run_and_the_change_is_ours_minus_the_papers(tmp_path: Path) -> None:
    def rows(value: float, null: float) -> list[Metric]:
        sets = [
            Metric("dimensionality", "d_eff", 20.0, "rare", "top", name, FINAL, null_mean=mean, null_sd=sd, p_value=0.1)
            for name, mean, sd in (("random", null, 2.0), ("selected", null + 1, 0.0))
        ]
        return [*sets, Metric("regimes", "paper_code_plateau_deviation", value, "rare", layer=FINAL)]

    own, paper = planted(tmp_path / "own", rows(-0.5, 25.0)), planted(tmp_path / "paper", rows(0.25, 22.0))
    comparison = compare_designs(own, paper)
    assert comparison.step == 8
    deviation = found(comparison, "paper_code_plateau_deviation")
    assert (deviation.paper, deviation.own) == (Estimate(0.25, None, None), Estimate(-0.5, None, None))
    assert deviation.change == pytest.approx(-0.75)
    random = found(comparison, "d_eff", whose="papers'")
    assert random.own == Estimate(-5.0, pytest.approx(-5 - 3.92, abs=0.001), pytest.approx(-5 + 3.92, abs=0.001))
    assert random.change == pytest.approx(-3)
    # a null that does not vary gives a difference and no interval
    assert found(comparison, "d_eff", whose="rtdyn's").paper == Estimate(-3.0, None, None)
    alike = found(comparison, "profile_r", FINAL)
    assert alike.own == alike.paper == Estimate(0.95, 0.9, 1.0) and alike.change == 0


def test_the_largest_head_is_for_a_position(tmp_path: Path) -> None:
    heads = [
        Metric("routing", "head_effect_total", value, "rare", "top", None, FINAL, head)
        for head, value in enumerate((30.0, 50.0, 40.0))
    ]
    own = planted(tmp_path / "own", [*heads, Metric("routing", "matched_positions", 200.0, "rare")])
    comparison = compare_designs(own, planted(tmp_path / "paper"))
    # sums over either half of the text have half of the positions each
    assert found(comparison, "head_effect_total", FINAL).own == Estimate(0.5, None, None)
    before = found(comparison, "head_effect_total", FINAL - 1)
    assert (
        isinstance(before.own, Undefined) and before.own.reason == "not measured at this step" and before.change is None
    )


def test_what_is_undefined_says_why_and_has_no_change(tmp_path: Path) -> None:
    none = [Metric("modularity", "q_paper_code", None, "rare", "top", reason="only 3 nodes, under 10")]
    comparison = compare_designs(planted(tmp_path / "own", none), planted(tmp_path / "paper"))
    row = found(comparison, "q_paper_code")
    assert row.own == Undefined("only 3 nodes, under 10") and row.change is None
    assert isinstance(row.paper, Undefined) and row.paper.reason == "not measured at this step"


def test_what_lies_at_the_end_of_the_grid_has_no_change_and_says_so_to_machines(tmp_path: Path) -> None:
    def plateau(value: float, at_edge: bool) -> list[Metric]:
        return [Metric("regimes", "plateau_fraction", value, "rare", layer=FINAL, at_edge=at_edge)]

    own, paper = planted(tmp_path / "own", plateau(0.22, True)), planted(tmp_path / "paper", plateau(0.01, False))
    comparison = compare_designs(own, paper)
    row = found(comparison, "plateau_fraction")
    assert isinstance(row.own, Estimate) and row.own.at_edge and row.change is None
    told = design_table(comparison).row(by_predicate=pl.col("metric") == "plateau_fraction", named=True)
    assert (told["own"], told["own_at_edge"], told["paper_at_edge"], told["change"]) == (0.22, True, False, None)


def test_verdicts_turn_where_the_designs_disagree(tmp_path: Path) -> None:
    wide = [Metric("routing", "profile_r", 0.95, "rare", layer=layer, ci_low=0.5, ci_high=1.0) for layer in LAYERS]
    verdicts = compare_designs(planted(tmp_path / "own"), planted(tmp_path / "paper", wide)).verdicts
    assert not isinstance(verdicts, Undefined)
    turned = [(v.claim, v.layer, v.paper, v.own) for v in verdicts if v.turns]
    assert turned == [("attention-alike", layer, "undetermined", "supported") for layer in LAYERS]


def test_runs_of_too_few_steps_have_statistics_and_no_verdicts(tmp_path: Path) -> None:
    comparison = compare_designs(planted(tmp_path / "own", steps=2), planted(tmp_path / "paper", steps=5))
    assert comparison.step == 1 and isinstance(found(comparison, "excess").own, Estimate)
    assert isinstance(comparison.verdicts, Undefined) and "fewer than 3 distinct steps" in comparison.verdicts.reason


def test_runs_that_end_at_different_steps_are_compared_at_the_last_of_both_and_not_judged(tmp_path: Path) -> None:
    comparison = compare_designs(planted(tmp_path / "own", steps=4), planted(tmp_path / "paper", steps=5))
    assert comparison.step == 4 and isinstance(comparison.verdicts, Undefined)
    assert comparison.verdicts.reason == "the runs end at different steps, 4 and 8; track the same steps in both"


def test_runs_without_a_step_in_common_are_refused(tmp_path: Path) -> None:
    own, paper = planted(tmp_path / "own", steps=1), planted(tmp_path / "paper", steps=1)
    left = Run(paper.path, paper.manifest.replace(left_out={0: "a copy"}))
    with pytest.raises(InputError, match=r"hold no sound step in common; track the same steps in both"):
        compare_designs(own, left)
