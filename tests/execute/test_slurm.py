"""Steps as jobs of Debian's own Slurm on loopback: killed, preempted, poisoned, refused."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import slurm as loopback
from loopback.sweeps import CHEAP, STEPS, TINY, Sweep, logged, same_tables, until
from support.hang import HANG
from support.processes import run_python
from support.refusal import refusal

from rtdyn.execute.slurm import StoppedBySignalError, _let_handlers_end_it

REASON = loopback.why_not()
needs_slurm = pytest.mark.skipif(REASON is not None, reason=str(REASON))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm() -> Iterator[loopback.Slurm]:
    try:
        with loopback.cluster() as cluster:
            yield cluster
    except RuntimeError as error:
        pytest.skip(f"Slurm does not come up on this machine: {error}")


@needs_slurm
def test_killed_and_preempted_a_sweep_comes_to_the_tables_of_a_serial_one(
    slurm: loopback.Slurm, here: Path, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path / "run", (*TINY, "--executor", "slurm", "--slurm-time", "60"), slurm.environment)
    driver = sweep.start()
    until(lambda: sweep.at_work())
    driver.kill()
    driver.communicate()
    until(lambda: sweep.at_work().keys() & {512, 4000})  # which take longer, with workers that nobody watches
    one = next(record for step, record in sweep.at_work().items() if step in (512, 4000))
    queue = slurm.ask("squeue", "-h", "-r", "-o", "%i %j.%K").split()
    job = queue[queue.index(one["task"]) - 1]
    slurm.ask("scancel", job, "--signal=USR2")
    until(lambda: "Restarts=1" in slurm.ask("scontrol", "show", "job", job))
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # by itself it would wait for two minutes
    driver = sweep.start()
    out, err = driver.communicate(timeout=HANG)
    assert driver.returncode == 0, err
    same_tables(sweep.out, here)
    assert logged(sweep.out) == list(STEPS)
    log = (slurm.folder / "slurmctld.log").read_text()
    assert log.count("_slurm_rpc_submit_batch_job") == 1, "the second driver gave what it found given"
    assert not (sweep.out / "tasks").exists() and not (sweep.out / "workers").exists()
    assert f"{len(STEPS)} steps stored" in out


@needs_slurm
def test_a_poisoned_step_and_a_damaged_one_are_named_after_the_rest_is_done(
    slurm: loopback.Slurm, tiny_folder: Path, tmp_path: Path
) -> None:
    suite = tmp_path / "suite"
    for name in ("step0", "step1", "step4000"):
        shutil.copytree(tiny_folder / name, suite / name)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(tiny_folder / name, suite)
    weights = suite / "step0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    options = ("--executor", "slurm", "--slurm-option", "nice=0", "--steps-per-task", "2", "--task-memory-gib", "1.5")
    arguments = ("--model", str(suite), "--corpus", "king-james-held-out", "--on-defect", "mark", *options)
    sweep = Sweep(tmp_path / "run", arguments, slurm.environment)
    driver = sweep.start()
    for _ in range(3):
        sweep.kill_worker(1)
    out, err = driver.communicate(timeout=HANG)
    assert driver.returncode == 3 and sweep.stored() == [4000], err
    said = refusal(err)
    assert "2 of 3 steps could not be analysed" in said and "Traceback" not in out + err
    assert "step 0:" in said and "truncated" in said
    assert "step 1: 3 workers failed" in said
    assert "1 step stored" in out


@needs_slurm
def test_a_partition_that_is_not_there_is_refused(slurm: loopback.Slurm, tmp_path: Path) -> None:
    options = ("--executor", "slurm", "--slurm-partition", "nowhere")
    ended = Sweep(tmp_path / "run", (*TINY, *options), slurm.environment).run()
    sentence = refusal(ended.stderr)
    assert ended.returncode == 3
    assert "invalid partition specified: nowhere" in sentence and "--slurm options" in sentence
    assert not (tmp_path / "run" / "tasks").exists()


def refused_without(hidden: str, path: str, out: Path) -> str:
    """What the command says in a process that has neither the module `hidden` nor other programs than `path` holds."""
    script = f"import sys; sys.modules[{hidden!r}] = None; from rtdyn.cli import main; main()"
    arguments = ["track", *TINY, *CHEAP, "--out", str(out), "--executor", "slurm"]
    environment = {**os.environ, "PATH": path}
    ended = run_python(["-c", script, *arguments], env=environment, timeout=HANG)
    assert ended.returncode == 3
    return refusal(ended.stderr)


def test_without_submitit_or_sbatch_it_is_refused_in_a_sentence(tmp_path: Path) -> None:
    assert "pip install submitit" in refused_without("submitit", os.environ["PATH"], tmp_path / "one")
    pytest.importorskip("submitit")
    assert "no sbatch and srun" in refused_without("nothing_of_this_name", "/nowhere", tmp_path / "two")


def test_what_a_handler_raises_ends_a_task_whatever_would_catch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGUSR2)

    def requeue(number: int, frame: object) -> None:
        raise subprocess.CalledProcessError(-15, ["scontrol", "requeue", "1"])

    signal.signal(signal.SIGUSR2, requeue)  # as submitit does
    monkeypatch.setattr(signal, "valid_signals", lambda: {signal.SIGUSR2})  # the others are the tests' own
    try:
        _let_handlers_end_it()
        with pytest.raises(StoppedBySignalError, match="SIGUSR2: CalledProcessError"):
            try:
                signal.raise_signal(signal.SIGUSR2)
            except Exception:
                raise AssertionError("a clause for bad input caught it") from None
    finally:
        faulthandler.cancel_dump_traceback_later()  # which would end this process, as it ends a task
        signal.signal(signal.SIGUSR2, before)
