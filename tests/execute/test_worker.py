"""A task at work: the steps it stores, those it notes as unusable, and the runs it refuses to touch."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HTTPError
from loopback.sweeps import until
from support.processes import Process

from rtdyn.analyses.options import StepOptions
from rtdyn.checkpoints.fetch_plan import Repeat
from rtdyn.checkpoints.stream import Stream, alike
from rtdyn.errors import InputError, ParityError
from rtdyn.execute.ledger import begin_try, end_try, has_left, read_seconds, tries
from rtdyn.execute.task import Task, task_template
from rtdyn.execute.worker import Worker
from rtdyn.model import families
from rtdyn.store.run import TASKS, done_steps, open_run, read_run, read_table
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job
from rtdyn.sweep.manifest import new_manifest
from rtdyn.sweep.sweep import prepare_sweep
from rtdyn.text.king_james import held_out_chapters
from rtdyn.text.options import EvaluationOptions

FEW = {"tokens": 3072, "bands": ("0.65:0.95",), "min_targets": 20, "positions_per_rare": 1.0}
ANALYSED = StepOptions(("ablation",), "kept", "mean_abs", 1.0, 2.0, "auto", "cpu", 0)


@pytest.fixture
def suite(tiny_folder: Path, tmp_path: Path) -> SuiteSpec:
    """Three steps, of which the middle one is cut short."""
    suite = tmp_path / "suite"
    for name in ("step0", "step1", "step4000"):
        shutil.copytree(tiny_folder / name, suite / name)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(tiny_folder / name, suite)
    weights = suite / "step1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return find_suite(str(suite), {})


@pytest.fixture
def task(
    takes_long: None, suite: SuiteSpec, options: EvaluationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Task:
    measured_on = replace(options, corpus="king-james-held-out", **FEW)
    sweep = prepare_sweep(suite, 4000, measured_on, ANALYSED)
    run = open_run(tmp_path / "run", new_manifest(suite, sweep.evaluation, sweep.config))
    (run.path / TASKS).mkdir()
    monkeypatch.chdir(tmp_path)
    job = Job(suite, (0, 1, 4000), measured_on, ANALYSED, "mark", 1.0)
    return replace(task_template(job, run, 4000), name="a.0", steps=job.steps)


def test_a_damaged_step_is_noted_as_final_and_the_others_are_stored(task: Task) -> None:
    Worker(pickle.loads(pickle.dumps(task))).work()
    assert list(done_steps(read_run(task.run))) == [0, 4000]
    assert set(read_seconds(task.run)) == {0, 4000} and {"load", "ablation"} <= set(read_seconds(task.run)[0])
    ((step, (one,)),) = tries(task.run).items()
    assert step == 1 and one.final and "truncated" in str(one.sentence)
    before = {file: file.stat().st_mtime_ns for file in task.run.rglob("*.parquet")}
    Worker(task).work()
    assert {file: file.stat().st_mtime_ns for file in task.run.rglob("*.parquet")} == before


@pytest.mark.parametrize(
    ("cause", "final"),
    [
        (None, True),
        (ValueError("no weights"), True),
        (OSError(28, "No space left on device"), False),
        (HTTPError("unreachable"), False),
    ],
)
def test_what_a_machines_disk_or_network_did_is_for_another_to_try(
    task: Task, cause: Exception | None, final: bool
) -> None:
    repeats = {0: (Repeat(4000, "step4000", "c"),)}
    worker, stream = Worker(task), Stream((0,), lambda step, tell: pytest.fail("not asked for"), repeats=repeats)
    with worker._trying(0, stream):
        raise InputError("it cannot be had") from cause
    assert {step: [(one.sentence, one.final) for one in known] for step, known in tries(task.run).items()} == {
        step: [("it cannot be had", final)] for step in (0, 4000)
    }
    assert worker.begun == []


@pytest.mark.parametrize("error", [InputError("its settings make no model"), ChildProcessError("scontrol requeue")])
def test_what_fails_once_it_is_told_to_leave_is_held_against_no_step(task: Task, error: Exception) -> None:
    worker, stream = Worker(task), Stream((0,), lambda step, tell: pytest.fail("not asked for"))
    with pytest.raises(type(error)), worker._trying(0, stream):
        worker.leave()
        raise error
    assert tries(task.run) == {} and has_left(task.run, task.name)


SCONTROL = """#!/bin/sh
kill -TERM $PPID
sleep 0.2
exit 1
"""


@pytest.mark.parametrize("after", [0.0, 0.3, 0.8])
def test_a_task_whose_requeue_is_cut_is_held_against_no_step(task: Task, tmp_path: Path, after: float) -> None:
    submitit = pytest.importorskip("submitit")
    from submitit.core.utils import DelayedSubmission

    from rtdyn.execute.slurm import SlurmTask

    submission = DelayedSubmission(SlurmTask(replace(task, steps=(0, 4000)), 60))
    submission.set_timeout(60, 3)
    jobs, programs = tmp_path / "jobs", tmp_path / "programs"
    jobs.mkdir()
    programs.mkdir()
    submission.dump(submitit.core.utils.JobPaths(jobs, "7").submitted_pickle)
    (programs / "scontrol").write_text(SCONTROL)
    (programs / "scontrol").chmod(0o755)
    names = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n1"}
    names |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SUBMITIT_EXECUTOR": "slurm"}
    environment = {**os.environ, **names, "PATH": f"{programs}:{os.environ['PATH']}"}
    process = Process(["-m", "submitit.core._submit", jobs], env=environment, merged=True)
    until(lambda: tries(task.run))
    time.sleep(after)
    process.send_signal(signal.SIGUSR2)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "SIGUSR2: CalledProcessError" in said, said
    assert tries(task.run) == {} and has_left(task.run, task.name)
    assert not list(task.run.rglob("*.aside"))


WAITS = """
import os, signal, threading
from rtdyn.execute import slurm
slurm.UNWINDING = 0.5
def cut(number, frame): raise OSError("scontrol requeue was cut")
signal.signal(signal.SIGUSR2, cut)
slurm._let_handlers_end_it()
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire).start()
os.kill(os.getpid(), signal.SIGUSR2)
"""


def test_a_task_that_a_handler_stopped_waits_for_no_lock_that_it_left() -> None:
    ended = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert "SIGUSR2: OSError: scontrol requeue was cut" in ended.stderr and "Timeout (0:00:00.5" in ended.stderr


def test_a_model_that_is_not_read_as_transformers_runs_it_ends_the_task(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = families.FAMILIES["gpt_neox"]

    def wrong(model: Any) -> Any:
        parts = right(model)
        return replace(parts, output_rows=parts.output_rows.roll(1, 0))

    monkeypatch.setattr(families, "FAMILIES", {**families.FAMILIES, "gpt_neox": wrong})
    with pytest.raises(ParityError, match="closed form"):
        Worker(task).work()
    ((step, (one,)),) = tries(task.run).items()
    assert step == 0 and one.final and one.ends_run and "closed form" in str(one.sentence)
    assert done_steps(read_run(task.run)) == {} and not list(task.run.rglob("*.parquet"))


def test_relative_paths_count_from_where_the_command_was_given(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "schedules: {few: '0,4000'}\nsuites: {mine: {path: suite, revision: 'step{step}', schedule: few}}"
    )
    (tmp_path / "text.txt").write_text("\n\n".join(held_out_chapters()))
    suite = load_suites(Path("mine.yaml"))["mine"]
    counts = str(Path("suite", "token_counts.npy"))
    (tmp_path / "parts.jsonl").write_text("\n".join(json.dumps({"text": t, "b": "x"}) for t in held_out_chapters()))
    measured_on = replace(
        task.measured_on,
        corpus="text.txt",
        frequencies=counts,
        named_texts=(("again", "text.txt"),),
        domains="parts.jsonl::b",
    )
    sweep = prepare_sweep(suite, 4000, measured_on, ANALYSED)
    assert sweep.config["location"] == "suite"
    run = open_run(Path("relative"), new_manifest(suite, sweep.evaluation, sweep.config))
    (run.path / TASKS).mkdir()
    given = replace(
        task_template(Job(suite, (0,), measured_on, ANALYSED, "mark", 1.0), run, 4000), name="b.0", steps=(0,)
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    Worker(pickle.loads(pickle.dumps(given))).work()
    done = read_run(tmp_path / "relative")
    assert list(done_steps(done)) == [0] and Path.cwd() == elsewhere
    assert set(read_table(done, "domains")["domain"]) == {"again", "x"} == set(done.manifest.domains)


def test_names_and_addresses_of_the_hub_are_no_paths(tiny: SuiteSpec, task: Task) -> None:
    named = replace(task.measured_on, corpus="king-james", frequencies="corpus")
    on_hub = replace(task.measured_on, corpus="hf://datasets/a/b", frequencies="hf://datasets/a/c")
    further = (("book", "king-james"), ("hub", "hf://datasets/a/b"))
    pile = replace(named, frequencies="pile", named_texts=further, domains="pile")
    for asked in (named, pile, on_hub, replace(named, corpus=None, frequencies=None)):
        made = task_template(Job(tiny, (0,), asked, ANALYSED, "mark", 1.0), read_run(task.run), 4000)
        assert made.measured_on == asked and made.suite == tiny
    pythia = load_suites()["pythia-70m"]
    made = task_template(Job(pythia, (0,), named, ANALYSED, "mark", 1.0), read_run(task.run), 4000)
    assert made.suite == pythia


def test_a_step_that_three_workers_died_with_is_left_alone(task: Task) -> None:
    for _ in range(3):
        begin_try(task.run, 0, "b.0")
    Worker(replace(task, steps=(0,))).work()
    assert done_steps(read_run(task.run)) == {}


def test_another_configuration_or_run_is_refused(task: Task, tmp_path: Path) -> None:
    for wrong in (replace(task, config_digest="0" * 64), replace(task, options=replace(ANALYSED, tolerance=0.5))):
        with pytest.raises(InputError, match="comes to another configuration than the run"):
            Worker(wrong).work()
    with pytest.raises(InputError, match="not an rtdyn run"):
        Worker(replace(task, run=tmp_path / "elsewhere")).work()
    assert done_steps(read_run(task.run)) == {} and tries(task.run) == {}


def test_told_to_leave_it_takes_back_its_tries(task: Task) -> None:
    worker = Worker(task)
    worker.begun.append(begin_try(task.run, 0, task.name))
    worker.leave("its time was over")
    assert tries(task.run)[0][0].sentence == "its time was over" and not has_left(task.run, task.name)
    worker.leave()
    assert tries(task.run) == {} and has_left(task.run, task.name)
    end_try(worker.begun[0], None)


def test_steps_of_a_folder_are_units_of_their_own(suite: SuiteSpec) -> None:
    assert alike(suite, (0, 1), {}, False) == [(0,), (1,)]
