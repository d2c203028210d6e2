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
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from rtdyn.blame import passes
from rtdyn.errors import InputError, brief

P = ParamSpec("P")
T = TypeVar("T")

LOOK = 0.2
"""Seconds that an answer is waited for before signals are looked at."""

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
        except BaseException as error:
            if isinstance(error, EOFError | OSError) and not passes(error):
                raise _death(process) from ChildProcessError(brief(error))
            _end(process)  # interrupted: its answer would be taken for that of the next call
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


def serve(connection: int) -> None:
    """The quiet process itself: answers the calls that come by this descriptor until its other end is closed."""
    calls: Connection[bytes, bytes] = Connection(connection)
    while True:
        try:
            call = calls.recv_bytes()
        except (EOFError, ConnectionError):
            return
        calls.send_bytes(_answer(call))


class _Process:
    """The quiet process, as the one that it serves sees it."""

    def __init__(self) -> None:
        self.calls, theirs = Pipe()
        serving = f"from rtdyn.quiet import serve; serve({theirs.fileno()})"
        own = {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
        # in a session of its own, so that Ctrl-C is for this process alone
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", serving],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.forgotten = 0
        """Calls sent whose answers nobody waits for."""
        atexit.register(self.end)

    def send(self, *call: object) -> None:
        self.calls.send_bytes(pickle.dumps(call, protocol=5))

    def answer(self) -> tuple[bool, Any]:
        """Whether the last call succeeded, and its result or error."""
        while self.forgotten:
            self._receive()
            self.forgotten -= 1
        succeeded, result = pickle.loads(self._receive())
        return succeeded, result

    def end(self) -> int:
        """Ends it; how it ended, as subprocess has it."""
        atexit.unregister(self.end)
        self.process.kill()
        self.calls.close()
        return self.process.wait()

    def _receive(self) -> bytes:
        while not self.calls.poll(LOOK):  # Ctrl-C may interrupt another thread than the one that waits here
            pass
        return self.calls.recv_bytes()


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
