"""The view in trackio with the real client: what its database holds, how it resumes, and what is refused."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.hang import HANG
from support.processes import run_python
from support.refusal import refusal
from support.synthetic import synthetic_run
from support.wandb_runs import stored_row

from rtdyn.cli import main
from rtdyn.store.run import locked, read_run, table_file

TWICE = """
import sys, trackio
from rtdyn.cli import main
trackio.init(project="mine", embed=False, auto_log_gpu=False, auto_log_cpu=False)
print("begins", flush=True)
main(["sync", "--tracker", "trackio", sys.argv[1]], standalone_mode=False)
trackio.log({"loss": 1.0})
trackio.finish()
"""


def database(folder: Path, project: str) -> sqlite3.Connection:
    (file,) = folder.glob(f"{project}*.db")
    return sqlite3.connect(file)


def rows(folder: Path) -> dict[int, dict[str, float]]:
    found = database(folder, "rtdyn").execute("select step, metrics, run_name from metrics").fetchall()
    assert {name for *_, name in found} == {"synthetic-0"}
    assert len(found) == len({step for step, *_ in found}), "a step is there twice"
    return {step: json.loads(metrics) for step, metrics, _ in found}


@pytest.mark.slow
def test_the_database_has_each_step_once_under_the_names_of_w_and_b(tmp_path: Path) -> None:
    """Also after a step came later, and beside a run that the process has open."""
    pytest.importorskip("trackio")
    run = read_run(synthetic_run(tmp_path / "run", 4, 60))
    later = table_file(run, "metrics", 4)
    later.rename(later.with_suffix(".later"))
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}

    def sync() -> list[str]:
        ended = run_python(["-c", TWICE, run.path], env=environment, timeout=HANG)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.partition("begins\n")[2].splitlines()[:2]

    said = [
        "3 of 3 steps sent, 0 were there already",
        "trackio has the numbers: `trackio show --project rtdyn` shows them",
    ]
    assert sync() == said
    later.with_suffix(".later").rename(later)
    assert sync()[0] == "1 of 4 steps sent, 3 were there already"
    stored = rows(tmp_path / "trackio")
    assert sorted(stored) == [0, 1, 2, 4]
    for step, row in stored.items():
        assert row == {name: value for name, value in stored_row(run, step).items() if name != "step"}
    mine = database(tmp_path / "trackio", "mine").execute("select metrics from metrics").fetchall()
    assert [json.loads(row) for (row,) in mine] == [{"loss": 1.0}] * 2


def test_trackio_that_cannot_be_used_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    track = ["track", "--model", "tiny", "--steps", "4000", "--tracker", "trackio", "--out", str(out)]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "trackio", None)
        ended = CliRunner().invoke(main, track)
        assert ended.exit_code == 3 and "pip install trackio" in refusal(ended.stderr)
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    assert "unset TRACKIO_SPACE_ID" in refusal(CliRunner().invoke(main, track).stderr)
    monkeypatch.delenv("TRACKIO_SPACE_ID")
    assert not out.exists()
    run = synthetic_run(tmp_path / "run", 4, 60)
    with locked(run):
        ended = CliRunner().invoke(main, ["sync", "--tracker", "trackio", str(run)])
    assert "another process" in refusal(ended.stderr)


def test_what_trackio_would_pass_over_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    track = ["track", "--model", "tiny", "--steps", "4000", "--tracker", "trackio", "--out", str(out)]
    sync = ["sync", "--tracker", "trackio", str(out)]
    for command, option in (
        (track, "--wandb offline"),
        (track, "--wandb online"),
        (track, "--no-report-upload"),
        (sync, "--no-report-upload"),
    ):
        ended = CliRunner().invoke(main, [*command, *option.split()])
        assert ended.exit_code == 2 and f"leave out {option}" in refusal(ended.stderr)
    assert not out.exists()
