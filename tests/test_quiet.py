"""The process of its own that foreign libraries run in: silent, alone in what it changes, and replaced when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hang import HANG

from rtdyn.errors import InputError
from rtdyn.quiet import begin, quietly

pytestmark = pytest.mark.slow  # seconds in all: each has a process of its own


class OddError(Exception):
    """Cannot be made again from its message alone."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def speak(value: int) -> int:
    print("out")
    print("err", file=sys.stderr)
    os.write(1, b"descriptor")
    warnings.warn("warned", stacklevel=1)
    return value + 1


def fail(kind: str) -> None:
    raise OddError("odd", kind) if kind == "odd" else ValueError(kind)


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def wait(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.fixture(autouse=True, scope="module")
def found_by_the_process() -> Iterator[None]:
    """These functions have a module that the process can import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
        for function in (speak, fail, die, wait, OddError):
            patch.setattr(function, "__module__", "test_quiet")
        patch.setitem(sys.modules, "test_quiet", sys.modules[__name__])
        with pytest.raises(InputError):  # one that knows this path comes next
            quietly(os._exit, 0)
        yield


def test_it_says_nothing_and_gives_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    assert quietly(speak, 41) == 42
    assert capfd.readouterr() == ("", "")
    assert quietly(os.getenv, "CUDA_VISIBLE_DEVICES") == ""


def test_what_it_raises_is_raised_here() -> None:
    with pytest.raises(ValueError, match=r"^plain$"):
        quietly(fail, "plain")
    with pytest.raises(RuntimeError, match="OddError: odd odd"):
        quietly(fail, "odd")
    assert quietly(wait, 0) == quietly(wait, 0) != os.getpid()


def test_its_death_is_a_sentence_and_the_next_call_has_another() -> None:
    first = quietly(wait, 0)
    with pytest.raises(InputError, match=r"was ended by SIGKILL; free some memory") as died:
        quietly(die, signal.SIGKILL)
    assert isinstance(died.value.__cause__, OSError), "another machine may do better"
    assert quietly(wait, 0) != first


def test_an_interrupted_calls_answer_is_not_the_next_calls() -> None:
    quietly(wait, 0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    began = time.monotonic()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            quietly(wait, 100.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 50
    assert quietly(speak, 1) == 2


def test_what_was_begun_is_done_before_the_next_call_and_forgotten() -> None:
    with pytest.raises(InputError):
        quietly(os._exit, 0)
    begin(os.getppid)
    assert quietly(speak, 2) == 3
    begin(os.abort)  # it runs already
    assert quietly(speak, 3) == 4


def test_threads_take_turns() -> None:
    found: dict[int, int] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: quietly(speak, i)})) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: i + 1 for i in range(20)}


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_it_ends_with_the_process_that_it_serves(end: str) -> None:
    script = f"import os; from rtdyn.quiet import quietly; print(quietly(os.getpid), flush=True); {end}"
    served = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG)
    assert served.stderr == ""
    deadline = time.monotonic() + HANG
    while _runs(int(served.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(int(served.stdout))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
