"""Processes of Python that are spared the import of the large libraries, which takes most of a small command's time.

Each is forked from a server (command_server.py) that has imported torch, scipy, numba and their like, and has computed
nothing. It has a working directory, an environment, streams, a number and an end of its own, as one that is executed.
It differs from a fresh process in this:

* PRELOADED and what these import is there already: what imports what, and when, has to be tested elsewhere.
* What the interpreter and those libraries read as they start is the server's. So what begins with one of FIXED may
  not differ; a test that needs it to, or needs a terminal, starts a process of its own.
* It computes with one thread, and the seed of hashes is one for all commands of a server.
* Its parent is the server; /proc calls it by the server's command line.
* It is killed once nothing can hear of it any more: when its `Process` is gone, or the process that holds that.

Signals at start-up, memory, trees of processes, clusters and terminals are for fresh processes.

Only Linux's libraries can be forked once they are loaded. Elsewhere each process is a fresh one.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypedDict, Unpack

from support import command_server

FIXED = ("OMP_", "MKL_", "OPENBLAS_", "NUMBA_", "LD_", "LC_", "LANG", "PYTHON")
"""How variables begin that are read before a command is forked; PYTHONPATH is read again."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
"""Sums of floats depend on the number of threads, and the tests' own processes share the cores."""


class Settings(TypedDict, total=False):
    """How a process of Python is started, beside its arguments: `-m` MODULE, `-c` CODE or a file, and what follows."""

    cwd: Path | None
    env: Mapping[str, str] | None
    """This process's own where none is given."""
    merged: bool
    """Whether stderr goes where stdout goes."""


def _environment(settings: Settings) -> dict[str, str]:
    env = settings.get("env")
    return dict(os.environ if env is None else env)


class Forked:
    """A process of Python whose streams are pipes of text; like subprocess.Popen as far as tests use it."""

    def __init__(self, arguments: Sequence[str | Path], **settings: Unpack[Settings]) -> None:
        """Raises ValueError if `env` differs from this process's environment in what the server has read."""
        self.args = [str(argument) for argument in arguments]
        self.returncode: int | None = None
        environment, server = _environment(settings), _server()
        _refuse_fixed(environment, server.environment)
        environment |= ONE_THREAD
        folder = settings.get("cwd") or Path.cwd()
        request = {"arguments": self.args, "folder": str(folder), "environment": environment}
        with ExitStack() as theirs:
            stdin, self.stdin = _pipe(theirs, write=True)
            stdout, self.stdout = _pipe(theirs)
            self.stderr: IO[str] | None = None
            stderr = stdout
            if not settings.get("merged"):
                stderr, self.stderr = _pipe(theirs)
            self._connection, other = socket.socketpair()
            with other:
                socket.send_fds(server.control, [b"x"], [other.fileno()])
            socket.send_fds(self._connection, [b"x"], [stdin, stdout, stderr])
        self._connection.sendall(json.dumps(request).encode())
        self._connection.shutdown(socket.SHUT_WR)
        self._answer = self._connection.makefile()
        self.pid = self._told()

    def poll(self) -> int | None:
        """The exit code once it has ended, negative for a signal."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired if it goes on after `timeout` seconds."""
        code = self._ended(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """What it says until its end, which is forced if it does not come within `timeout` seconds."""
        with self, ThreadPoolExecutor(3) as pool:
            texts = [pool.submit(stream.read) for stream in (self.stdout, self.stderr) if stream is not None]
            given = pool.submit(self._give, input)
            try:
                self.wait(timeout)
            except BaseException:
                self.kill()
                raise
            given.result()
            out, err = (*(text.result() for text in texts), "")[:2]
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)  # of one that ends meanwhile the number is kept until its end was said

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Closes the pipes and waits for the end, as `with` does."""
        with suppress(BrokenPipeError):
            self.stdin.close()
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()
        self._answer.close()
        self._connection.close()

    def _give(self, text: str | None) -> None:
        """All that is still to be given, if it reads so far."""
        for last in (partial(self.stdin.write, text or ""), self.stdin.close):
            with suppress(BrokenPipeError):
                last()

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = self._told()
        return self.returncode

    def _told(self) -> int:
        line = self._answer.readline()
        if not line:
            raise RuntimeError("the server of commands has ended; what it said stands on standard error")
        return int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()  # else a test that fails would wait for what goes on
        self.close()


class Fresh(subprocess.Popen[str]):
    """The same, executed."""

    def __init__(self, arguments: Sequence[str | Path], **settings: Unpack[Settings]) -> None:
        super().__init__(
            [sys.executable, *map(str, arguments)],
            cwd=settings.get("cwd"),
            env=_environment(settings) | ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if settings.get("merged") else subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """What it says until its end, which is forced if it does not come within `timeout` seconds."""
        with self:
            out, err = super().communicate(input, timeout)
        return out, err or ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        super().__exit__(kind, error, traceback)


Process: type[Forked] | type[Fresh] = Forked if sys.platform == "linux" else Fresh


def run_python(
    arguments: Sequence[str | Path],
    *,
    input: str | None = None,
    timeout: float | None = None,
    **settings: Unpack[Settings],
) -> subprocess.CompletedProcess[str]:
    """A process from its begin to its end, like subprocess.run; arguments as in `Process`."""
    process = Process(arguments, **settings)
    out, err = process.communicate(input, timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@dataclass(frozen=True)
class _Server:
    control: socket.socket
    environment: Mapping[str, str]
    """This process's when it was started."""


_LOCK = threading.Lock()


def _server() -> _Server:
    """This process's server, started when it is first asked for."""
    with _LOCK:
        return _start_server()


@cache
def _start_server() -> _Server:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = dict(os.environ)
    with theirs:
        command = [sys.executable, command_server.__file__]
        server = subprocess.Popen(
            command, env=environment | ONE_THREAD, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
        )

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return _Server(ours, environment)


def _refuse_fixed(asked: Mapping[str, str], had: Mapping[str, str]) -> None:
    changed = {name for name in asked.keys() | had.keys() if asked.get(name) != had.get(name)} - {"PYTHONPATH"}
    lacking = {name for name, one in ONE_THREAD.items() if asked.get(name, one) == one}
    read = sorted(name for name in changed - lacking if name.startswith(FIXED))
    if read:
        raise ValueError(f"{', '.join(read)} was read before a command is forked; use a process of its own")


def _pipe(theirs: ExitStack, write: bool = False) -> tuple[int, IO[str]]:
    """The end of a pipe that a command gets, closed with `theirs`, and the other: to write on, or else to read."""
    read_end, write_end = os.pipe()
    given, kept = (read_end, write_end) if write else (write_end, read_end)
    theirs.callback(os.close, given)
    return given, os.fdopen(kept, "w" if write else "r", encoding="utf-8", errors="backslashreplace")
