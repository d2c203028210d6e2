"""Whose fault an exception is: what signals, memory and disks do is never told as a fault of the input."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from support.hang import HANG
from support.processes import run_python

from rtdyn.audit.survey import audit_steps, audit_suite
from rtdyn.blame import blamed_on, from_handler, machine_fault, out_of_memory
from rtdyn.capture.layered_model import open_model
from rtdyn.checkpoints.checkpoint import load_model, read_json
from rtdyn.checkpoints.local import fetch_local
from rtdyn.checkpoints.safetensors_files import read_header
from rtdyn.checkpoints.tensors import read_final_mlp
from rtdyn.cli import main
from rtdyn.errors import InputError
from rtdyn.files import replace_file
from rtdyn.judge.baseline import read_baseline
from rtdyn.model.sizes import model_shape
from rtdyn.parquet import read_parquet
from rtdyn.store.run import read_run
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.text.token_counts import read_counts
from rtdyn.text.tokenizer import load_tokenizer

NO_DISK = Path("/proc/self/mem")
"""Reading it at its beginning is an input/output error, for root too."""
needs_proc = pytest.mark.skipif(not NO_DISK.exists(), reason="this system has no /proc/self/mem")


def requeue(number: int, frame: object) -> None:
    raise subprocess.CalledProcessError(-15, ["scontrol", "requeue", "1"])


class Requeue:
    def __call__(self, *given: object) -> None:
        requeue(*given[:2])

    def method(self, number: int, frame: object = None) -> None:
        raise OSError("of no code, as transformers' own sentences are")


@pytest.fixture
def alarm() -> Iterator[Callable[[Any], object]]:
    """Has a handler called by SIGALRM."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


HANDLERS = (requeue, Requeue(), Requeue().method, functools.partial(requeue), lambda number, frame: requeue(1, 2))


@pytest.mark.parametrize("handler", HANDLERS, ids=["function", "object", "method", "partial", "lambda"])
def test_what_any_form_of_handler_raises_is_known_even_where_a_library_raises_anew(
    alarm: Callable[[Any], object], handler: Any
) -> None:
    alarm(handler)

    def library() -> None:
        try:
            signal.raise_signal(signal.SIGALRM)
        except Exception:
            raise OSError("cannot be loaded") from None

    for interrupted in (lambda: signal.raise_signal(signal.SIGALRM), library):
        with pytest.raises((subprocess.CalledProcessError, OSError)) as caught, blamed_on("a file", InputError):
            interrupted()
        assert from_handler(caught.value)


def test_a_frame_that_is_handed_on_by_itself_makes_no_handler() -> None:
    import inspect

    def fails(frame: object) -> None:
        raise ValueError

    with pytest.raises(InputError), blamed_on("a file", lambda error: InputError(str(error))):
        fails(inspect.currentframe().f_back)


CALLS = {
    "model_shape": lambda suite: model_shape(json.loads((suite.path / "step512" / "config.json").read_text()), "x"),
    "load_tokenizer": lambda suite: load_tokenizer(suite.path),
    "load_model": lambda suite: load_model(fetch_local(suite, 512), "cpu"),
    "open_model": lambda suite: open_model(fetch_local(suite, 512), "cpu", True, 2**30),
    "read_final_mlp": lambda suite: read_final_mlp(suite.path / "step512"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_at_any_moment_is_never_a_fault_of_the_input(name: str) -> None:
    # in a process of its own, whose children are one thread each: forks of a process with threads may hang
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import test_blame; test_blame.strike({name!r})"
    ended = run_python(["-c", code], env=os.environ | {"TOKENIZERS_PARALLELISM": "1"}, timeout=HANG)
    assert ended.returncode == 0 and "stopped" in ended.stdout and "blamed" not in ended.stdout, ended


def strike(name: str) -> None:
    """Calls it with a signal at each of twelve moments, each in a child; prints what each made of it."""
    suite = find_suite("tiny", load_suites())
    CALLS[name](suite)
    seconds = timed(lambda: CALLS[name](suite))
    for share in np.linspace(0.02, 0.98, 12):
        child = os.fork()
        if child == 0:
            _strike_once(lambda: CALLS[name](suite), share * seconds)
        until = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > until:  # what the signal cut off held a lock for good: nobody was blamed for it
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                print("hung", flush=True)
                break
            time.sleep(0.005)


def _strike_once(call: Callable[[], object], seconds: float) -> NoReturn:
    said = b"whole\n"
    try:
        signal.signal(signal.SIGALRM, requeue)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except subprocess.CalledProcessError:
        said = b"stopped\n"
    except BaseException as error:
        said = f"blamed {error!r}\n".encode()
    finally:
        os.write(1, said)
        os._exit(0)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.mark.parametrize("taken", [lambda: np.empty(10**16), lambda: torch.empty(10**16)], ids=["numpy", "torch"])
def test_a_lack_of_memory_passes_and_ends_a_command_in_a_sentence(taken: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught, blamed_on("a file", InputError):
        taken()
    assert out_of_memory(caught.value) and "memory does not suffice" in str(machine_fault(caught.value))


def test_a_library_that_does_not_fit_into_memory_is_no_fault_of_the_input() -> None:
    with pytest.raises(ImportError) as caught, blamed_on("a file", InputError):
        try:
            raise ImportError("_fblas.so: failed to map segment from shared object")  # what dlopen says then
        except ImportError as error:
            raise ModuleNotFoundError("Could not import module 'GPTNeoXForCausalLM'") from error
    assert out_of_memory(caught.value)


def test_bugs_and_bad_input_are_no_faults_of_the_machine() -> None:
    for error in (ValueError("x"), FileNotFoundError(errno.ENOENT, "no such file", "a"), KeyError("b")):
        assert machine_fault(error) is None


def test_an_offset_that_a_damaged_file_gives_is_the_inputs_though_it_is_an_oserror(tmp_path: Path) -> None:
    with (
        (tmp_path / "new").open("wb") as handle,
        pytest.raises(InputError, match="Invalid argument"),
        blamed_on("a file", lambda error: InputError(str(error))),
    ):
        handle.seek(-1)


@needs_proc
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_disk_that_fails_is_named_and_not_the_checkpoint(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny_folder / "step512", tmp_path / "step512")
    (tmp_path / "step512" / name).unlink()
    (tmp_path / "step512" / name).symlink_to(NO_DISK)
    with pytest.raises(InputError, match="Input/output error") as caught:
        fetch_local(find_suite(str(tmp_path), {}), 512)
    assert "download it again" not in str(caught.value) and isinstance(caught.value.__cause__, OSError)


@needs_proc
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_an_audit_counts_no_disk_against_a_step(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    for step in ("step512", "step2000", "step4000"):
        shutil.copytree(tiny_folder / step, tmp_path / step)
        shard = "model-00001-of-00001.safetensors"
        (tmp_path / step / "model.safetensors").rename(tmp_path / step / shard)
        index = {"weight_map": dict.fromkeys(read_header(tmp_path / step / shard).tensors, shard)}
        (tmp_path / step / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "step512" / name).unlink()
    (tmp_path / "step512" / name).symlink_to(NO_DISK)
    (tmp_path / "tokenizer.json").symlink_to(NO_DISK)
    suite = find_suite(str(tmp_path), {})
    before_a_run = audit_steps(suite, suite.steps)
    assert [step.verdict for step in before_a_run.steps] == ["sound"] * 3
    assert [finding for finding in before_a_run.findings if "tokenizer.json cannot be read (Input/output" in finding]
    with pytest.raises(InputError, match=f"{name} cannot be read .Input/output error"):
        audit_suite(suite)


@needs_proc
def test_no_advice_to_write_it_again_is_given_for_what_a_disk_holds_back(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to(NO_DISK)
    (tmp_path / "counts.npy").symlink_to(NO_DISK)
    reads: dict[str, Callable[[], object]] = {
        "run": lambda: read_run(tmp_path),
        "baseline": lambda: read_baseline(tmp_path / "manifest.json"),
        "counts": lambda: read_counts(tmp_path / "counts.npy"),
        "json": lambda: read_json(tmp_path / "manifest.json"),
    }
    for name, read in reads.items():
        with pytest.raises(InputError, match="Input/output error") as caught:
            read()
        assert not any(word in str(caught.value) for word in ("write it", "not an rtdyn run", "download")), name


@needs_proc
def test_a_stored_table_that_a_disk_holds_back_is_not_taken_for_absent(tmp_path: Path) -> None:
    file = tmp_path / "step=000001.parquet"
    file.symlink_to(NO_DISK)
    with pytest.raises(OSError, match="Input/output error") as caught:
        read_parquet(file)
    assert "Input/output error" in str(machine_fault(caught.value))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_the_cause_of_what_polars_says_of_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make room") as caught:
        replace_file(tmp_path / "a", lambda aside: pl.DataFrame({"a": [1]}).write_parquet("/dev/full"))
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC


@needs_proc
def test_a_command_says_in_one_sentence_which_file_a_disk_holds_back(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to(NO_DISK)
    ended = CliRunner().invoke(main, ["claims", str(tmp_path)])
    assert ended.exit_code == 3 and len(ended.stderr.splitlines()) == 1
    assert "Input/output error" in ended.stderr
