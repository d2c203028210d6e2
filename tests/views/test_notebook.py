"""Opening a run in a notebook: what it gives, and what it says of a run that is not whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal

import rtdyn
from rtdyn.cli import main
from rtdyn.errors import InputError
from rtdyn.judge.scorecard import scorecard
from rtdyn.judge.scorecard_frame import claim_frame
from rtdyn.store.manifest import SCHEMA_VERSION
from rtdyn.store.run import read_run, read_table, table_file
from rtdyn.store.schema import TABLES

STEPS = (0, 512, 2000, 4000)


@pytest.fixture(scope="module")
def small(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    command = ["track", "--model", "tiny", "--steps", ",".join(map(str, STEPS)), "--out", str(out)]
    settings = [
        "--analyses",
        "ablation",
        "--tokens",
        "2000",
        "--window",
        "32",
        "--min-targets",
        "10",
        "--tolerance",
        "0.01",
    ]
    done = CliRunner().invoke(
        main, [*command, *settings, "--rare", "0.3:0.95", "--positions-per-rare", "1", "--wandb", "disabled"]
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "run"))


def test_tables_are_lazy_and_hold_what_is_stored(small: Path) -> None:
    run, stored = rtdyn.open_run(str(small)), read_run(small)
    assert run.steps == STEPS and run.manifest == stored.manifest and run.path == small
    for table in TABLES:
        frame = getattr(run, table)
        assert isinstance(frame, pl.LazyFrame)
        assert_frame_equal(frame.collect(), read_table(stored, table))
    assert_frame_equal(run.trajectories(), read_table(stored, "metrics"))
    rows = scorecard(stored)
    assert_frame_equal(run.claim_checks(), claim_frame(rows))
    assert run.claims().select("claim", "layer", "verdict").rows() == [(r.claim, r.layer, r.verdict) for r in rows]
    assert re.fullmatch(r"<rtdyn run tiny: 4 finished steps \(0 to 4000\); .*small>", repr(run))


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import rtdyn, sys; rtdyn.open_run; print({'polars', 'torch', 'numpy', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_cut_off_run_opens_and_says_what_it_has(copied: Path) -> None:
    table_file(read_run(copied), "windows", 2000).unlink()
    run = rtdyn.open_run(copied)
    assert run.steps == (0, 512, 4000) and run.trajectories()["step"].unique().to_list() == [0, 512, 4000]
    assert "3 finished steps (0 to 4000), still running or cut off" in repr(run)
    for step in (0, 512):
        table_file(read_run(copied), "metrics", step).unlink()
    run = rtdyn.open_run(copied)
    assert "1 finished step (4000)" in repr(run) and run.metrics.collect().height > 0
    for refused in (run.trajectories, run.claims):
        with pytest.raises(InputError, match="fewer than 3 distinct steps"):
            refused()
    table_file(read_run(copied), "neurons", 4000).unlink()
    run = rtdyn.open_run(copied)
    assert run.steps == () and "no finished step yet" in repr(run)
    with pytest.raises(InputError, match="no finished step yet"):
        run.neurons  # noqa: B018 - the property itself refuses


def test_repeats_are_left_out_before_the_manifest_knows_them(copied: Path) -> None:
    record = pl.read_parquet_metadata(table_file(read_run(copied), "metrics", 4000))
    for table in TABLES:
        file = table_file(read_run(copied), table, 2000)
        frame = pl.read_parquet(file)
        frame.write_parquet(file, metadata={k: record[k] for k in ("config_digest", "checkpoint")})
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "checkpoints": {}, "left_out": {}}))
    run = rtdyn.open_run(copied)
    assert run.left_out == {2000: "it holds the same weights as step 4000"}
    assert run.trajectories()["step"].unique().to_list() == [0, 512, 4000]
    assert "1 left out of trajectories, still running or cut off" in repr(run)


def test_another_schema_and_no_run_are_refused(copied: Path, tmp_path: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 1}))
    with pytest.raises(InputError, match=f"store schema 1; this rtdyn reads schema {SCHEMA_VERSION}"):
        rtdyn.open_run(copied)
    with pytest.raises(InputError, match="not an rtdyn run"):
        rtdyn.open_run(tmp_path / "none")
