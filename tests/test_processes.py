"""Processes that are forked from a server (support/processes.py) behave as fresh ones do where tests rely on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support import processes
from support.hang import HANG
from support.processes import Forked, Fresh, Process, run_python

pytestmark = pytest.mark.slow  # the first starts the server
forks = pytest.mark.skipif(Process is not Forked, reason="processes are forked on Linux alone")

SURROUNDINGS = """
import json, os, random, sys, tempfile, numpy
early = [m for m in ("rtdyn", "huggingface_hub", "transformers", "polars", "wandb", "matplotlib") if m in sys.modules]
drawn = [random.random(), numpy.random.random()]
threads = len(os.listdir("/proc/self/task"))
given = [os.getcwd(), sys.argv, os.environ.get("ASKED"), tempfile.gettempdir(), early, threads]
print(json.dumps([*given, drawn, input()]))
print(os.getpid(), file=sys.stderr)
"""
SLEEPS = "import sys, time; print('begun', flush=True); sys.stdin.readline(); time.sleep(600)"


@forks
def test_it_has_a_folder_an_environment_streams_and_chance_of_its_own(tmp_path: Path) -> None:
    drawn = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        env = {**os.environ, "ASKED": name, "TMPDIR": str(folder)}
        ended = run_python(["-c", SURROUNDINGS, "a", "b"], input=f"said {name}\n", cwd=folder, env=env)
        assert ended.returncode == 0, ended.stderr
        *found, draws, said = json.loads(ended.stdout)
        assert found == [str(folder), ["-c", "a", "b"], name, str(folder), [], 1] and said == f"said {name}"
        assert int(ended.stderr) != os.getpid()
        drawn += draws
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(
    ("code", "returned", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('a sentence')", 1, "a sentence\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("import atexit, sys; atexit.register(print, 'last', file=sys.stderr)", 0, "last\n"),
        ("import os; os.abort()", -signal.SIGABRT, ""),
    ],
)
def test_it_ends_as_python_does(code: str, returned: int, said: str) -> None:
    ended = run_python(["-c", code])
    assert ended.returncode == returned and ended.stderr.endswith(said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(number: signal.Signals) -> None:
    with Process(["-c", SLEEPS]) as process:
        assert process.stdout.readline() == "begun\n" and process.poll() is None
        print(file=process.stdin, flush=True)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == -number == process.poll()


def test_modules_and_files_are_run_as_the_main_program(tmp_path: Path) -> None:
    for name in ("beside", "program"):
        (tmp_path / f"{name}.py").write_text("import sys; print(__name__, sys.argv[1:])\n")
    with (tmp_path / "program.py").open("a") as file:
        file.write("import beside\n")
    for arguments in ([str(tmp_path / "program.py"), "x"], ["-m", "program", "x"]):
        ended = run_python(arguments, cwd=tmp_path)
        assert ended.stdout == "__main__ ['x']\nbeside ['x']\n", ended.stderr


@forks
def test_what_the_server_has_read_is_refused() -> None:
    with pytest.raises(ValueError, match="OMP_NUM_THREADS, PYTHONHASHSEED"):
        run_python(["-c", ""], env={**os.environ, "OMP_NUM_THREADS": "7", "PYTHONHASHSEED": "1"})


@forks
def test_threads_that_the_user_asks_for_are_no_difference() -> None:
    code = "from support.processes import run_python; print(run_python(['-c', 'print(1)']).stdout)"
    env = {**os.environ, "OMP_NUM_THREADS": "7", "PYTHONPATH": str(Path(processes.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "1", ended.stderr


@forks
def test_asking_for_one_thread_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.ONE_THREAD:
        monkeypatch.delenv(name, raising=False)
    assert run_python(["-c", "print(1)"], env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout.strip() == "1"


def test_what_it_does_not_read_is_no_fault() -> None:
    assert run_python(["-c", "print('said')"], input="z" * 10**6).stdout == "said\n"


@pytest.mark.parametrize("kind", [pytest.param(Forked, marks=forks), Fresh])
def test_it_ends_with_the_test_that_fails(kind: Callable[..., Process]) -> None:
    with pytest.raises(ZeroDivisionError), kind(["-c", SLEEPS]) as process:
        assert process.stdout.readline() == "begun\n"
        1 / 0  # noqa: B018
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", [pytest.param(Forked, marks=forks), Fresh])
def test_it_ends_where_it_takes_too_long(kind: Callable[..., Process]) -> None:
    process = kind(["-c", SLEEPS])
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.2)
    assert process.returncode == -signal.SIGKILL and process.stdout.closed and process.stdin.closed


@forks
def test_it_ends_with_the_process_that_would_hear_of_it() -> None:
    process = Forked(["-c", SLEEPS])
    assert process.stdout.readline() == "begun\n"
    process._answer.close()
    process._connection.close()
    deadline = time.monotonic() + HANG
    while psutil.pid_exists(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_executed_one_speaks_as_a_forked_one_does() -> None:
    code = "import sys; print(input(), flush=True); print('y', file=sys.stderr)"
    assert Fresh(["-c", code]).communicate("x\n") == ("x\n", "y\n")
    assert Fresh(["-c", code], merged=True).communicate("x\n") == ("x\ny\n", "")


def test_both_streams_may_be_one_and_what_is_large_goes_through() -> None:
    code = "import sys; print('x' * 10**6, flush=True); print('y' * 10**6, file=sys.stderr); sys.exit(len(input()) % 7)"
    ended = run_python(["-c", code], input="z" * 10**6 + "\n", merged=True)
    assert ended.stdout == "x" * 10**6 + "\n" + "y" * 10**6 + "\n" and ended.stderr == ""
    assert ended.returncode == 10**6 % 7
