"""Foreign libraries that print, log, warn or change what a whole process shares: they run in a process of their own.

There is one, started by the first call, that ends with this process. It sees no GPU, what it prints is thrown away,
and what other threads of this process print meanwhile is not touched.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import IO, Any, ParamSpec, TypeVar

from rtdyn.errors import InputError, brief

P = ParamSpec("P")
T = TypeVar("T")

_lock = Lock()
_processes: dict[int, _Process] = {}
"""By the id of the process that it serves, as a fork is another."""


def quietly(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The function's result, computed in the quiet process; calls of several threads take turns.

    function: of a module, not of `__main__`. All are pickled. Raises what it raises, and InputError if the process
    dies, which the next call starts anew.
    """
    with _lock:
        process = _started()
        try:
            process.send(function, arguments, named)
            succeeded, result = process.answer()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise _death(process) from ChildProcessError(brief(error))
        except BaseException:  # interrupted: its answer would be taken for that of the next call
            _end(process)
            raise
    if not succeeded:
        raise result
    return result


def begin(function: Callable[[], object]) -> None:
    """Starts the quiet process, where it does not run yet, and has it call the function while this one goes on.

    What the function comes to is forgotten.
    """
    with _lock:
        if os.getpid() in _processes:
            return
        process = _started()
        with suppress(OSError):  # the next call says that it died
            process.send(function, (), {})
            process.forgotten += 1


def serve() -> None:
    """The quiet process itself: answers calls until its input ends."""
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    while True:
        try:
            call = pickle.load(calls)
        except EOFError:
            return
        pickle.dump(_answer(call), answers)
        answers.flush()


class _Process:
    """The quiet process, as the one that it serves sees it."""

    def __init__(self) -> None:
        program = [sys.executable, "-P", "-W", "ignore", "-c", "from rtdyn.quiet import serve; serve()"]
        own = {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
        # in a session of its own, so that Ctrl-C is for this process alone
        self.process = subprocess.Popen(
            program,
            env={**os.environ, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.calls, self.answers = _pipe(self.process.stdin), _pipe(self.process.stdout)
        self.forgotten = 0
        """Calls sent whose answers nobody waits for."""
        atexit.register(self.end)

    def send(self, *call: object) -> None:
        pickle.dump(pickle.dumps(call, protocol=5), self.calls, protocol=5)
        self.calls.flush()

    def answer(self) -> tuple[bool, Any]:
        """Whether the last call succeeded, and its result or error."""
        for _ in range(self.forgotten):
            pickle.load(self.answers)
            self.forgotten -= 1
        succeeded, result = pickle.loads(pickle.load(self.answers))
        return succeeded, result

    def end(self) -> int:
        """Ends it; how it ended, as subprocess has it."""
        atexit.unregister(self.end)
        self.process.kill()
        with suppress(OSError):  # what was not sent yet
            self.calls.close()
        self.answers.close()
        return self.process.wait()


def _started() -> _Process:
    process = _processes.get(os.getpid())
    if process is None:
        process = _processes[os.getpid()] = _Process()
    return process


def _end(process: _Process) -> int:
    """Ends it, so that the next call starts another; how it ended, as subprocess has it."""
    del _processes[os.getpid()]
    return process.end()


def _death(process: _Process) -> InputError:
    """What is said of a process that died by itself."""
    with suppress(subprocess.TimeoutExpired):
        process.process.wait(timeout=1.0)
    code = _end(process)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return InputError(
        f"the process of weightwatcher and powerlaw {how}; free some memory if it is short, and give the command again"
    )


def _answer(call: bytes) -> bytes:
    """The pickled success and result of a pickled call."""
    try:
        function, arguments, named = pickle.loads(call)
        return pickle.dumps((True, function(*arguments, **named)), protocol=5)
    except Exception as error:
        try:
            failed = pickle.dumps((False, error))
            pickle.loads(failed)
        except Exception:  # some errors cannot be made again from what they hold
            failed = pickle.dumps((False, RuntimeError(brief(error))))
        return failed


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
