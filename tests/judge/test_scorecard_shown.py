"""The scorecard as it is printed and stored: cells, what stands beside, and the command."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from support.planted_scorecard import edit, no_plateau, planted, rows_of

from rtdyn.errors import InputError
from rtdyn.judge.scorecard import CONTRADICTED, SUPPORTED, UNDETERMINED, scorecard
from rtdyn.judge.scorecard_frame import CLAIM_SCHEMA, as_json, claim_frame, claims_table
from rtdyn.store.schema import Metric
from rtdyn.views.terminal.scorecard import claim_cells, claims, print_claims


def test_the_command_prints_and_stores_the_scorecard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = planted(tmp_path / "run", no_plateau)
    text = io.StringIO()
    rows = claims(run.path, False, Console(file=text, width=200))
    shown = text.getvalue()
    assert rows == scorecard(run)
    assert "Claims at step 64" in shown and "layer-effect, layer 4" in shown and "supported" in shown
    assert "0.95 (0.9 to 1)" in shown and "null: pseudo-class 0 (sd 0.005) p 0.7" in shown
    assert "null: selected 3 (sd 0.3) p 0.001" in shown and "pieces of text" not in shown and "±" not in shown
    # what stands beside is another statistic, whose null is not that of the one shown
    alike = claim_cells(next(r for r in rows if r.claim == "attention-alike"))
    assert (alike["value"], alike["null"]) == ("0.95 (0.9 to 1)", "")
    assert "since 4" in shown and "(after 2)" in shown
    assert "which would be supported" in shown and "shape p 0.001" in shown
    stored = pl.read_parquet(run.path / "claims.parquet")
    assert dict(stored.schema) == CLAIM_SCHEMA and stored.height == sum(len(r.checks) for r in rows)
    assert pl.read_parquet_metadata(run.path / "claims.parquet")["config_digest"] == run.digest
    first = stored.filter(pl.col("check") == 0)
    assert first["verdict"].to_list() == [r.verdict for r in rows]
    claims(run.path, True, Console(file=io.StringIO()))
    listed = json.loads(capsys.readouterr().out)
    assert listed == json.loads(json.dumps(as_json(rows))) and isinstance(listed, list)
    assert listed[0]["claim"] == "three-regimes-rare" and listed[0]["checks"][0]["margin_low"] == 0.0
    assert not list(run.path.glob(".*aside"))


def test_cells_hold_value_and_null_in_the_same_units_and_name_what_stands_in(tmp_path: Path) -> None:
    def unlike(row: Metric, step: int) -> Metric | None:
        p = 0.9991 if row.metric == "shape_p_value" and row.token_class == "rare" else row.p_value
        return no_plateau(replace(row, p_value=p, value=p if row.metric == "shape_p_value" else row.value), step)

    rows = scorecard(planted(tmp_path / "run", unlike))
    cells = {row.claim: claim_cells(row) for row in rows}
    modular, tail = cells["no-modular-cluster"], cells["tail-grows"]
    assert modular["value"] == "0.01 (-0.0488 to 0.0688)" and modular["null"].startswith("selected 0 (sd 0.03) p ")
    assert modular["statistic"].endswith("(top, standing in for the plateau)")
    assert not re.search(r"[0-9] \(sd", tail["null"])  # the null of α is none of its slope
    assert cells["three-regimes-rare"]["null"] == "shape p > 0.99"
    assert cells["three-regimes-rare"]["region"].startswith("> 0, lacking: largest shape p")
    table = claims_table(rows)
    assert table.height == len(rows) and table["claim"].to_list() == [row.claim for row in rows]
    stood = table.filter(claim="no-modular-cluster").row(0, named=True)
    assert (stood["stand_in"], stood["null_mean"]) == (True, 0.0) and abs(stood["value"] - 0.01) < 1e-12
    assert not table.filter(claim="three-regimes-rare")["stand_in"].item()


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"clusters": 12}, "0.01 (0.0075 to 0.0125), only 12 pieces of text"),
        ({"clusters": 20}, "0.01 (0.0075 to 0.0125)"),
        ({"ci_low": None, "at_edge": True}, "≤ 0.01"),
        ({"ci_high": None, "at_edge": True}, "≥ 0.01"),
        ({"ci_low": None, "ci_high": None}, "0.01"),
    ],
)
def test_a_value_is_shown_with_its_interval_its_edge_and_few_pieces_of_text(
    tmp_path: Path, fields: dict[str, Any], value: str
) -> None:
    run = planted(tmp_path / "run", edit("plateau_fraction", **fields), steps=(0, 1, 2))
    row = rows_of(run, "plateau-size")[0]
    assert claim_cells(row)["value"] == value
    first = row.checks[0]
    assert (first.clusters, first.at_edge) == (fields.get("clusters", 40), fields.get("at_edge", False))
    stored = claim_frame([row]).filter(check=0)
    assert (stored["check_clusters"][0], stored["check_at_edge"][0]) == (first.clusters, first.at_edge)
    if first.at_edge:
        assert row.verdict == UNDETERMINED and first.reason.startswith("the boundary lies at the edge")


def test_what_stands_beside_is_stored_and_decides_nothing(tmp_path: Path) -> None:
    opposite = edit("d_eff", where={"null": "matched"}, null_mean=12.0)
    row = rows_of(planted(tmp_path / "run", opposite), "lower-dimensionality")[0]
    decides, beside = row.checks
    assert (decides.null, decides.role, decides.verdict) == ("selected", "decides", SUPPORTED)
    assert (beside.null, beside.role, beside.verdict) == ("matched", "beside", CONTRADICTED)
    assert (row.verdict, row.reason, row.emerged) == (SUPPORTED, "", 4)
    never = edit("d_eff", where={"null": "matched"}, p_value=0.9)
    assert rows_of(planted(tmp_path / "never", never), "lower-dimensionality")[0].emerged == 4


def test_a_scorecard_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planted(tmp_path / "run")
    claims(run.path, False, Console(file=io.StringIO()))
    before = (run.path / "claims.parquet").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(InputError, match="No space left"):
        claims(run.path, False, Console(file=io.StringIO()))
    assert (run.path / "claims.parquet").read_bytes() == before
    with pytest.raises(InputError, match="not an rtdyn run"):
        claims(tmp_path, False, Console(file=io.StringIO()))
    assert claim_frame([]).schema == pl.Schema(CLAIM_SCHEMA)
    print_claims([], Console(file=io.StringIO()))
