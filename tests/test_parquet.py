"""Files are read by their very names, whatever polars makes of a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import rtdyn
from rtdyn.cli import main
from rtdyn.judge.baseline import read_baseline
from rtdyn.parquet import read_metadata, read_parquet, scan_parquet
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.run import config_digest, open_run, read_run, read_table, write_copy, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.sweep.extend import join
from rtdyn.text.documents import read_documents
from rtdyn.text.token_counts import read_counts

STEPS = (0, 8, 64)
NAMES = ["run[1]", "run?", "run*", "{run1,run2}", "~", "run**", "[!a]un1", "seed=1", "run 1", "run%31", "runs [exp]/1"]
"""Of folders; several of them are patterns that `run1` fits."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, which is also the home folder's name for `~`."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(path: Path, loss: float) -> Path:
    """A run whose loss is `loss` at every step."""
    config = {"suite": "mine", "location": str(path), "seed": 0}
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="mine", config=config, config_digest=config_digest(config))
    path.parent.mkdir(parents=True, exist_ok=True)
    run = open_run(path, manifest)
    for step in STEPS:
        checkpoint = CheckpointRecord(revision=f"step{step}", commit=None, digests={"model.safetensors": f"{step:064}"})
        plain = pl.DataFrame({"step": [step]})
        metrics = metric_frame([Metric("capture", "loss", loss, token_class="rare", n=3)], step, None)
        write_step(run, step, checkpoint, StepTables(metrics, plain, plain))
    return path


def one_column(file: Path, name: str, values: list[object]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({name: values}).write_parquet(file.absolute(), metadata={"of": str(file)})
    return file


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_is_the_one_that_is_named(here: Path, name: str, absolute: bool) -> None:
    for other in ("run1", "run2", "home", "aun1", "runs e"):
        one_column(Path(other) / "f.parquet", "x", [1])
        one_column(Path(other) / "1" / "f.parquet", "x", [1])
    file = one_column(Path(name) / "f.parquet", "x", [2])
    asked = here / file if absolute else file
    assert read_parquet(asked).to_dict(as_series=False) == {"x": [2]}
    assert scan_parquet([asked, Path("run1/f.parquet")]).collect().to_dict(as_series=False) == {"x": [2, 1]}
    assert read_metadata(asked)["of"] == str(file)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_not_made_up_from_others(name: str) -> None:
    one_column(Path("run1") / "f.parquet", "x", [1])
    one_column(Path("home") / "f.parquet", "x", [1])
    for read in (read_parquet, read_metadata, lambda file: scan_parquet([file]).collect()):
        with pytest.raises(FileNotFoundError):
            read(Path(name) / "f.parquet")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_holds_its_own_numbers(name: str) -> None:
    stored(Path("run1"), 1.0)
    path = stored(Path(name), 2.0)
    for run, loss in ((path, 2.0), (Path("run1"), 1.0)):
        frames = rtdyn.open_run(run)
        metrics = frames.metrics.collect()
        assert frames.steps == STEPS and metrics["value"].to_list() == [loss] * len(STEPS)
        assert read_table(read_run(run), "metrics").equals(metrics)
        assert frames.trajectories()["value"].to_list() == [loss] * len(STEPS)
        update = CliRunner().invoke(main, ["check", str(run), "--baseline", "b.json", "--update"])
        assert update.exit_code == 0, update.output
        values = [rows["capture/loss/rare"]["value"] for rows in read_baseline(Path("b.json")).rows.values()]
        assert values == [loss] * len(STEPS)
        Path("b.json").unlink()


def test_the_copy_of_a_step_is_its_own_runs() -> None:
    stored(Path("run1"), 1.0)
    run = read_run(stored(Path("run[1]"), 2.0))
    write_copy(run, 8, 16, None, "step16", "c", join)
    assert read_table(run, "metrics").filter(step=16)["value"].to_list() == [2.0]


@pytest.mark.parametrize("file", ["train [v2].parquet", "train?v.parquet", "{train v,x}.parquet"])
def test_a_corpus_is_the_one_that_is_named(file: str) -> None:
    one_column(Path("train v.parquet"), "text", ["another"])
    one_column(Path(file), "text", ["its own"])
    assert read_documents(file).texts == ("its own",)


def test_counts_are_those_of_the_file_that_is_named() -> None:
    one_column(Path("model v/token_counts.parquet"), "count", [9, 9, 1])
    file = one_column(Path("model [v2]/token_counts.parquet"), "count", [1, 2, 3])
    assert np.array_equal(read_counts(file).counts, [1, 2, 3])
