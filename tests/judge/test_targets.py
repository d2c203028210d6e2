"""How many rare positions would decide an open claim, by planted intervals that shrink with their number's root."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.planted_scorecard import Change, edit, no_plateau, planted, rows_of

from rtdyn.judge.scorecard import CONTRADICTED, SUPPORTED, UNDETERMINED, ClaimRow
from rtdyn.store.manifest import TokenClassRecord
from rtdyn.store.schema import Metric
from rtdyn.sweep.paper import PAPER
from rtdyn.views.terminal.scorecard import claims, open_claims, targets_text

pytestmark = pytest.mark.slow  # seconds in all: whole runs are planted

NOW = 200
OPEN: list[tuple[str, str, str | None, dict[str, float], str]] = [
    ("no-gini-difference", "gini_difference", None, {"value": 0.002, "ci_low": -0.03, "ci_high": 0.034}, SUPPORTED),
    ("no-gini-difference", "gini_difference", None, {"value": 0.015, "ci_low": -0.01, "ci_high": 0.06}, SUPPORTED),
    ("no-gini-difference", "gini_difference", None, {"value": 0.03, "ci_low": 0.0, "ci_high": 0.05}, CONTRADICTED),
    ("no-gini-difference", "gini_difference", None, {"value": -0.05, "ci_low": -0.06, "ci_high": 0.05}, CONTRADICTED),
    ("attention-alike", "profile_r", None, {"value": 0.9, "ci_low": 0.7, "ci_high": 0.95}, SUPPORTED),
    ("attention-alike", "profile_r", None, {"value": 0.8, "ci_low": 0.5, "ci_high": 0.95}, CONTRADICTED),
    ("layer-effect", "layer_effect", None, {"value": -0.5, "ci_low": -0.6, "ci_high": -0.3}, SUPPORTED),
    ("plateau-size", "plateau_fraction", "rare", {"value": 0.012, "ci_low": 0.001, "ci_high": 0.05}, SUPPORTED),
    ("no-plateau-common", "excess", "common", {"value": 0.1, "ci_low": -0.3, "ci_high": 0.5}, SUPPORTED),
    # an interval whose middle a bias correction has moved away from the value
    ("three-regimes-rare", "excess", "rare", {"value": 1.2, "ci_low": -0.2, "ci_high": 1.0}, SUPPORTED),
]


def rare(measured: int) -> dict[str, TokenClassRecord]:
    return {"rare": TokenClassRecord(band="paper-text", ranks=(1, 2), types=2, positions=measured, measured=measured)}


def row_at(path: Path, claim: str, change: Change) -> ClaimRow:
    return rows_of(planted(path, change, steps=(0, 1, 4), classes=rare(NOW)), claim)[-1]


@pytest.mark.parametrize("clusters", [40, 12])
@pytest.mark.parametrize(("claim", "metric", "token_class", "planted_at", "ends"), OPEN)
def test_a_claim_is_decided_by_the_number_told_and_not_by_less(
    tmp_path: Path, claim: str, metric: str, token_class: str | None, planted_at: dict[str, float], ends: str,
    clusters: int,
) -> None:  # fmt: skip
    low, high = planted_at["ci_low"], planted_at["ci_high"]
    centre = planted_at["value"] if low <= planted_at["value"] <= high else (low + high) / 2

    def measured_on(name: str, targets: float) -> ClaimRow:
        shrunk = math.sqrt(NOW / targets)
        at: dict[str, Any] = {
            "value": centre if targets != NOW else planted_at["value"],
            "ci_low": centre - shrunk * (centre - low), "ci_high": centre + shrunk * (high - centre),
        }  # fmt: skip
        return row_at(tmp_path / name, claim, edit(metric, token_class, clusters=clusters, **at))

    now = measured_on("now", NOW)
    assert now.verdict == UNDETERMINED and now.targets_to_decide is not None and now.targets_to_decide > NOW
    assert now.rare_targets == NOW and now.targets_reason == ""
    assert measured_on("enough", 1.01 * now.targets_to_decide).verdict == ends
    assert measured_on("less", 0.99 * now.targets_to_decide).verdict == UNDETERMINED


def test_the_number_is_n_times_the_square_of_half_width_over_distance(tmp_path: Path) -> None:
    row = row_at(tmp_path / "a", "attention-alike", edit("profile_r", value=0.9, ci_low=0.7, ci_high=1.0, clusters=40))
    assert row.targets_to_decide == math.ceil(NOW * (0.2 / 0.06) ** 2)
    # rounded up to two figures, since widths are estimates themselves
    assert targets_text(row) == "about 2,300 rare positions would decide it, there are 200"


NONE: list[tuple[str, Change, str]] = [
    ("three-regimes-rare", edit("shape_p_value", "rare", value=0.2, p_value=0.2), "a p-value judges it"),
    ("three-regimes-rare", edit("decay_slope", value=-0.3), "decay slope + κ: its value has no interval"),
    ("plateau-size", edit("plateau_fraction", value=0.006, ci_low=None, at_edge=True), "its value has no interval"),
    ("no-modular-cluster", edit("q_excess", null_sd=0.08), "its interval is not one of text"),
    ("heavy-tailed", edit("hill_alpha_half", ci_high=2.1), "its interval is not one of text"),
    ("tail-grows", edit("hill_alpha_half", value=3.0), "slope of ln α and slope of ln(α / mean of selected sets): it"),
    ("attention-alike", edit("profile_r", value=0.84, ci_low=0.8, ci_high=0.9), "its value lies on the margin"),
    ("attention-alike", edit("profile_r", value=None, ci_low=None, ci_high=None, clusters=None, reason="no head"),
     "it has no value"),
    ("single-head-small", no_plateau, "the plateau has no value"),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "change", "reason"), NONE)
def test_where_no_number_is_known_the_reason_is_said(tmp_path: Path, claim: str, change: Change, reason: str) -> None:
    row = row_at(tmp_path / "run", claim, change)
    assert (row.verdict, row.targets_to_decide) == (UNDETERMINED, None) and reason in row.targets_reason
    assert targets_text(row) == f"No number of rare positions is known to decide it: {row.targets_reason}"


def test_a_gate_that_stays_closed_leaves_no_number(tmp_path: Path) -> None:
    def change(row: Metric, step: int) -> Metric:
        wide = edit("plateau_fraction", value=0.012, ci_low=0.001, ci_high=0.05)(row, step) or row
        below = {"value": -0.2, "ci_low": -0.5, "ci_high": 0.1, "clusters": 40}
        return edit("excess", "rare", **below)(wide, step) or wide

    row = row_at(tmp_path / "run", "plateau-size", change)
    assert row.targets_to_decide is None
    assert row.targets_reason == "excess of the top, ln units: its value lies outside what is claimed"


def test_a_decided_claim_and_a_run_that_does_not_say_its_targets_have_none(tmp_path: Path) -> None:
    decided = row_at(tmp_path / "a", "attention-alike", lambda row, step: row)
    assert (decided.verdict, decided.targets_to_decide, targets_text(decided)) == (SUPPORTED, None, "")
    wide = edit("profile_r", ci_low=0.8)
    unsaid = rows_of(planted(tmp_path / "b", wide, steps=(0, 1, 4)), "attention-alike")[-1]
    assert unsaid.targets_to_decide is None and "does not say on how many" in unsaid.targets_reason


def test_the_command_and_the_closing_lines_say_it(tmp_path: Path) -> None:
    change = edit("profile_r", where={"layer": 5}, value=0.9, ci_low=0.7, ci_high=1.0)
    run = planted(tmp_path / "run", change, steps=(0, 1, 4), classes=rare(NOW))
    text = io.StringIO()
    rows = claims(run.path, False, Console(file=text, width=200))
    shown = text.getvalue()
    assert "about 2,300" in shown and "About 2,300 rare positions would decide it, there are 200." in shown
    assert "--rare-targets N" in shown and "`rtdyn plan`" in shown
    lines = open_claims(rows)
    assert "attention-alike, layer 5: about 2,300 rare positions would decide it, there are 200" in lines
    assert "--rare-targets N" in lines[-1] and "--rare-targets" not in open_claims(rows, PAPER)[-1]
    assert "measures 10 windows" in open_claims(rows, PAPER)[-1]
    assert lines[0].startswith(f"{sum(r.verdict == UNDETERMINED for r in rows)} of {len(rows)} verdicts")
    assert open_claims([replace(r, verdict=SUPPORTED) for r in rows]) == []
