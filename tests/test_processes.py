"""Processes that are forked from a server (support/processes.py) behave as fresh ones do where tests rely on it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from support.processes import Process, run_python

pytestmark = pytest.mark.slow  # the first starts the server

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


def test_what_the_server_has_read_is_refused() -> None:
    with pytest.raises(ValueError, match="OMP_NUM_THREADS, PYTHONHASHSEED"):
        run_python(["-c", ""], env={**os.environ, "OMP_NUM_THREADS": "7", "PYTHONHASHSEED": "1"})


def test_both_streams_may_be_one_and_what_is_large_goes_through() -> None:
    code = "import sys; print('x' * 10**6, flush=True); print('y' * 10**6, file=sys.stderr); sys.exit(len(input()) % 7)"
    ended = run_python(["-c", code], input="z" * 10**6 + "\n", merged=True)
    assert ended.stdout == "x" * 10**6 + "\n" + "y" * 10**6 + "\n" and ended.stderr == ""
    assert ended.returncode == 10**6 % 7
