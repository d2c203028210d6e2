"""Runs on a disk: how far each one is, and which directories are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.test_run import manifest, record, store

from rtdyn.errors import InputError
from rtdyn.judge.overview import CUT_OFF, DONE, EMPTY, INCOMPLETE, RUNNING, TASKS_LEFT, Overview, overview, runs_in
from rtdyn.store.manifest import ScheduleRecord
from rtdyn.store.run import TASKS, Run, locked, open_run, write_manifest

SCHEDULE = ScheduleRecord(last_step=8, steps_are_updates=True, defects=())


def run_of(path: Path, stored: tuple[int, ...], asked: tuple[int, ...]) -> Run:
    """A run that ended with these steps."""
    run = open_run(path, manifest())
    for step in stored:
        store(run, step, f"digest {step}")
    checkpoints = {step: record(step, model=f"digest {step}") for step in stored}
    ended = Run(path, run.manifest.replace(asked=asked, checkpoints=checkpoints, schedule=SCHEDULE))
    write_manifest(ended)
    return ended


def test_a_run_is_as_far_as_its_steps_are(tmp_path: Path) -> None:
    assert overview(run_of(tmp_path / "a", (0, 4), (0, 4)).path).state == DONE
    half = overview(run_of(tmp_path / "b", (0,), (0, 4)).path)
    assert (half.state, half.stored, half.missing) == (INCOMPLETE, (0,), (4,))
    assert overview(run_of(tmp_path / "c", (), ()).path).state == EMPTY


def test_a_process_that_writes_one_that_was_killed_and_a_cluster_are_told_apart(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", (0,), (0, 4))
    with locked(run.path):
        assert overview(run.path).state == RUNNING
    store(run, 4)
    assert overview(run.path).state == CUT_OFF
    (run.path / TASKS).mkdir()
    assert overview(run.path).state == TASKS_LEFT


def test_a_folder_lists_what_it_holds_and_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run directory"):
        list(runs_in(tmp_path))
    run_of(tmp_path / "good", (0,), (0,))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{")
    bad, good = runs_in(tmp_path)
    assert isinstance(bad, InputError) and "cannot be read as JSON" in str(bad)
    assert isinstance(good, Overview) and good.state == DONE
