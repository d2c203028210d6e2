"""The scorecard as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from rtdyn.files import replace_file
from rtdyn.judge.scorecard import ClaimRow
from rtdyn.store.run import Run

CLAIMS_FILE = "claims.parquet"

CLAIM_SCHEMA: dict[str, Any] = {
    "claim": pl.String,
    "text": pl.String,
    "source": pl.String,
    "step": pl.Int64,
    "layer": pl.Int64,
    "matrix": pl.String,
    "heads": pl.String,
    "group": pl.String,
    "verdict": pl.String,
    "reason": pl.String,
    "emerged": pl.Int64,
    "emerged_after": pl.Int64,
    "emergence_reason": pl.String,
    "rare_targets": pl.Int64,
    "targets_to_decide": pl.Int64,
    "targets_reason": pl.String,
    "check": pl.Int64,
    "check_statistic": pl.String,
    "check_role": pl.String,
    "check_kind": pl.String,
    "check_metric": pl.String,
    "check_token_class": pl.String,
    "check_value": pl.Float64,
    "check_ci_low": pl.Float64,
    "check_ci_high": pl.Float64,
    "check_clusters": pl.Int64,
    "check_at_edge": pl.Boolean,
    "check_null": pl.String,
    "check_null_mean": pl.Float64,
    "check_null_sd": pl.Float64,
    "check_p_value": pl.Float64,
    "check_margin_low": pl.Float64,
    "check_margin_high": pl.Float64,
    "check_level": pl.Float64,
    "check_verdict": pl.String,
    "check_reason": pl.String,
}


def as_json(rows: list[ClaimRow]) -> list[dict[str, Any]]:
    """The rows as dictionaries of plain values, undefined ones None; `checks` is a list of dictionaries."""
    return [asdict(row) | {"checks": [asdict(check) for check in row.checks]} for row in rows]


def claim_frame(rows: list[ClaimRow]) -> pl.DataFrame:
    """A row a claim, layer, matrix, heads and criterion; `check` 0 is the statistic of the claim."""
    records = [
        {k: v for k, v in row.items() if k != "checks"}
        | {"check": number}
        | {f"check_{k}": v for k, v in check.items()}
        for row in as_json(rows)
        for number, check in enumerate(row["checks"])
    ]
    return pl.DataFrame(records, schema=CLAIM_SCHEMA)


def claims_table(rows: list[ClaimRow]) -> pl.DataFrame:
    """A row a claim, layer, matrix and heads, with the claim's statistic; `null_mean` is in the units of `value`."""
    every = claim_frame(rows)
    centres = pl.Series("null_mean", [row.checks[0].null_centre for row in rows], dtype=pl.Float64)
    stand_in = pl.Series("stand_in", [row.is_stand_in for row in rows], dtype=pl.Boolean)
    of_claim = [name for name in CLAIM_SCHEMA if not name.startswith("check")]
    shown = {name: name.removeprefix("check_") for name in CLAIM_SCHEMA if name.startswith("check_")}
    kept = {old: new for old, new in shown.items() if new not in ("role", "verdict", "reason")}
    first = every.filter(check=0).select(*of_claim, *(pl.col(old).alias(new) for old, new in kept.items()))
    return first.with_columns(centres, stand_in)


def store_claims(run: Run, rows: list[ClaimRow]) -> Path:
    """Writes the scorecard into the run directory, whole or not at all. Raises InputError if it cannot."""
    file = run.path / CLAIMS_FILE
    replace_file(file, partial(claim_frame(rows).write_parquet, metadata={"config_digest": run.digest}))
    return file
