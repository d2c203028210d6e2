"""Analyses that join a stored run: what they add, what stays, and what they are refused on."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from polars.testing import assert_frame_equal
from support.refusal import refusal

from rtdyn.cli import main
from rtdyn.names import ANALYSES
from rtdyn.store.run import lacking, read_run, read_step, read_table, table_file
from rtdyn.store.schema import TABLES
from rtdyn.store.settings_file import SETTINGS, read_settings

SMALL = ("--rare", "0.65:0.95", "--tokens", "4096", "--positions-per-rare", "1", "--wandb", "disabled", "--min-targets")
SMALL = (*SMALL, "20", "--corpus", "king-james-held-out")


def rtdyn(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture(scope="module")
def suite(takes_long: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extend") / "suite"
    for name in ("step512", "step4000"):
        shutil.copytree(tiny_folder / name, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(tiny_folder / name, folder)
    return folder


def track(suite: Path, out: Path, steps: str, analyses: str, *more: str) -> Result:
    return rtdyn("track", "--model", suite, "--steps", steps, "--out", out, *SMALL, "--analyses", analyses, *more)


@pytest.mark.slow
def test_a_run_extended_twice_is_the_run_that_had_them_all_at_once(suite: Path, tmp_path: Path) -> None:
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    assert track(suite, whole, "4000", "ablation,regimes,dimensionality,mediation").exit_code == 0
    first = track(suite, grown, "512,4000", "ablation,dimensionality")
    assert first.exit_code == 0 and "caution: 2 sound steps, and" in first.stderr, first.stderr
    second = track(suite, grown, "4000", "ablation,mediation")
    assert "1 stored step lacks mediation: only that is added" in second.stderr, second.stderr
    stages = [line for line in (grown / "log.jsonl").read_text().splitlines() if '"step": 4000' in line]
    assert "dimensionality" in stages[0] and "dimensionality" not in stages[1] and "mediation" in stages[1]
    third = track(suite, grown, "4000", "ablation,regimes,dimensionality")
    assert "1 stored step lacks regimes" in third.stderr and third.exit_code == 0, third.stderr
    run = read_run(grown)
    ours, theirs = read_step(run, 4000), read_step(read_run(whole), 4000)
    for table in TABLES:
        left, right = (getattr(step, table) for step in (ours, theirs))
        columns = sorted(right.columns) if table == "neurons" else right.columns
        assert_frame_equal(left.select(columns), right.select(columns), check_exact=True)
    assert ours.fingerprint == theirs.fingerprint
    assert lacking(run, 512, ANALYSES) == tuple(n for n in ANALYSES if n not in ("ablation", "dimensionality"))
    assert run.manifest.config["analyses"] == ["ablation", "regimes", "dimensionality", "mediation"]
    assert read_settings(grown / SETTINGS)["analyses"] == "ablation,regimes,dimensionality,mediation"
    neurons = read_table(run, "neurons")  # of steps with other columns
    assert neurons.filter(pl.col("step") == 512)["regime"].is_null().all() and len(neurons) == 2 * 512
    before = table_file(run, "metrics", 4000).read_bytes()
    assert track(suite, grown, "4000", "ablation,regimes").exit_code == 0
    assert table_file(run, "metrics", 4000).read_bytes() == before

    refused = track(suite, grown, "512", "heavytail")
    assert refused.exit_code == 3 and "one is of weights alone, the other of a text" in refusal(refused.stderr)
    refused = track(suite, grown, "512", "ablation", "--tokens", "8192", "--seed", "1")
    assert "seed 0 → 1, rare targets 98 → 166, tokens 4096 → 8192; give another --out" in refusal(refused.stderr)
