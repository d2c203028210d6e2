"""A run directory: whole steps only, one configuration, one writer."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from rtdyn.errors import InputError
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest, TokenClassRecord
from rtdyn.store.run import (
    Run,
    config_digest,
    done_steps,
    locked,
    open_run,
    read_run,
    read_table,
    shorter_or_longer,
    table_file,
    write_step,
)
from rtdyn.store.schema import AT_EDGE, METRIC_SCHEMA, OK, TABLES, UNDEFINED, Metric, StepTables, metric_frame


def manifest(**config: object) -> Manifest:
    settings = {"suite": "tiny", "seed": 0, **config}
    digest = config_digest(settings)
    return Manifest(schema_version=SCHEMA_VERSION, suite="tiny", config=settings, config_digest=digest)


def record(step: int, **digests: str) -> CheckpointRecord:
    return CheckpointRecord(revision=f"step{step}", commit=None, digests=digests)


def tables(step: int) -> StepTables:
    rows = [Metric("capture", "loss", 1.5, token_class="rare", n=3), Metric("regimes", "r1", None, reason="too few")]
    frame = pl.DataFrame({"step": [step], "x": [1.0]})
    return StepTables(metric_frame(rows, step, step * 10), frame, frame)


def store(run: Run, step: int, digest: str = "d") -> None:
    write_step(run, step, record(step, model=digest), tables(step))


def test_a_step_is_done_when_all_its_files_are_there(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", manifest())
    store(run, 1000), store(run, 2)
    assert list(done_steps(run)) == [2, 1000]
    assert done_steps(run)[2] == record(2, model="d")
    table_file(run, "windows", 2).unlink()
    assert list(done_steps(run)) == [1000]
    table_file(run, "neurons", 1000).write_bytes(b"PAR1 cut")
    assert list(done_steps(run)) == []
    with pytest.raises(InputError, match="no finished step"):
        read_table(run, "metrics")


def test_tables_are_read_back_as_written(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", manifest())
    store(run, 4), store(run, 16)
    metrics = read_table(run, "metrics")
    assert dict(metrics.schema) == METRIC_SCHEMA
    assert metrics["step"].to_list() == [4, 4, 16, 16] and metrics["tokens_seen"].to_list() == [40, 40, 160, 160]
    assert metrics["status"].to_list() == ["ok", "undefined"] * 2
    assert metrics["value"].to_list() == [1.5, None] * 2 and metrics["reason"][1] == "too few"


def test_the_status_says_whether_a_value_is_the_last_that_could_be_found() -> None:
    rows = [Metric("a", "b", 5.0, clusters=12), Metric("a", "b", 5.0, ci_high=9.0, clusters=12, at_edge=True),
            Metric("a", "b", None, reason="too few")]  # fmt: skip
    frame = metric_frame(rows, 0, None)
    assert frame["status"].to_list() == [OK, AT_EDGE, UNDEFINED] == ["ok", "at_edge", "undefined"]
    assert frame["clusters"].to_list() == [12, 12, None] and "at_edge" not in frame.columns
    assert dict(frame.schema) == METRIC_SCHEMA


def test_a_metric_has_a_number_or_a_reason() -> None:
    for row in (
        Metric("a", "b", None),
        Metric("a", "b", 1.0, reason="why"),
        Metric("a", "b", float("nan")),
        Metric("a", "b", float("nan"), reason="why"),
        Metric("a", "b", 1.0, null="random"),
        Metric("a", "b", 1.0, null="random", p_value=0.5, reason="why"),
    ):
        with pytest.raises(ValueError, match="numbers or a reason"):
            metric_frame([row], 0, None)


def test_files_of_another_configuration_do_not_count(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", manifest())
    store(run, 1)
    other = open_run(tmp_path / "other", manifest(seed=1))
    for table in TABLES:
        table_file(other, table, 1).parent.mkdir()
        table_file(run, table, 1).rename(table_file(other, table, 1))
    assert list(done_steps(other)) == []


def test_another_configuration_is_refused_with_the_settings_named(tmp_path: Path) -> None:
    open_run(tmp_path / "run", manifest(window=256))
    open_run(tmp_path / "run", manifest(window=256))
    with pytest.raises(InputError, match=r"seed 0 → 3, window 256 → 128;.*--out"):
        open_run(tmp_path / "run", manifest(window=128, seed=3))
    # the last layer is meant where none is named
    with pytest.raises(InputError, match=r"other settings: layers last → -1,-2;"):
        open_run(tmp_path / "run", manifest(window=256, layers="-1,-2"))


def test_a_run_of_another_length_of_text_is_refused_and_found_by_its_targets(tmp_path: Path) -> None:
    def of(targets: int, **config: object) -> Manifest:
        rare = TokenClassRecord(band="paper-text", ranks=(1, 2), types=2, positions=targets, measured=targets)
        return manifest(evaluation_set=f"set of {targets}", **config).replace(classes={"rare": rare})

    open_run(tmp_path / "tiny-1", of(201))
    more = of(800)
    with pytest.raises(InputError, match=r"other settings: .*rare targets 201 → 800"):
        open_run(tmp_path / "tiny-1", more)
    found = shorter_or_longer(tmp_path / "tiny-2", more)
    assert (
        found is not None
        and found.startswith(f"{tmp_path / 'tiny-1'} has other text: ")
        and "rare targets 201 → 800" in found
    )
    # neither the same configuration, nor one that differs in more than its text, nor another suite's
    assert shorter_or_longer(tmp_path / "tiny-2", of(201)) is None
    assert shorter_or_longer(tmp_path / "tiny-2", of(800, seed=7)) is None
    assert shorter_or_longer(tmp_path / "big-2", more.replace(suite="big")) is None


@pytest.mark.slow
def test_a_run_is_read_where_the_system_has_no_file_locks_and_written_nowhere_there(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", manifest())
    store(run, 1)
    script = (
        "import sys; sys.modules['fcntl'] = None; import rtdyn; from pathlib import Path\n"
        "from rtdyn.errors import InputError; from rtdyn.store.run import is_held, locked\n"
        "path = Path(sys.argv[1]); frames = rtdyn.open_run(path)\n"
        "print(frames.steps, frames.metrics.collect().height, is_held(path))\n"
        "try:\n"
        "    locked(path).__enter__()\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run.path)], capture_output=True, text=True)
    read, refused = done.stdout.splitlines() or [done.stderr, ""]
    assert read == "(1,) 2 False" and "this system has no flock" in refused and "where files can be" in refused


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not empty and not an rtdyn run"):
        open_run(tmp_path, manifest())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write to"):
        open_run(tmp_path / "file" / "run", manifest())


def test_another_schema_is_refused_by_version(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest().replace(schema_version=99).as_json()))
    with pytest.raises(InputError, match=f"schema 99; this rtdyn reads schema {SCHEMA_VERSION}"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(InputError, match="not an rtdyn run"):
        read_run(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(tmp_path / "run", manifest())
    store(run, 1)
    before = sorted(p for p in run.path.rglob("*"))

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(InputError, match="No space left"):
        store(run, 1)
    assert sorted(p for p in run.path.rglob("*")) == before and list(done_steps(run)) == [1]


def _hold(path: Path, ready: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with locked(path):
        ready.set()
        release.wait(30)


def test_one_writer_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, release))
    other.start()
    assert ready.wait(30)
    with pytest.raises(InputError, match="another process is writing"), locked(tmp_path):
        pass
    (tmp_path / ".left.aside").write_text("half")
    os.kill(other.pid or 0, 9)
    other.join(30)
    with locked(tmp_path):
        assert not (tmp_path / ".left.aside").exists()
