"""A process that has imported the large libraries once, and forks a child for each command: run by processes.py."""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy

PRELOADED = (
    "torch._dynamo",
    "torch.distributed.tensor",
    "scipy.optimize",
    "scipy.special",
    "scipy.stats",
    "numba",
    "accelerate",
    "safetensors.torch",
    "tokenizers",
    "pydantic",
    "jinja2",
    "PIL.Image",
    "rich.table",
    "yaml",
)
"""Not rtdyn itself, nor what reads a test's settings as it is imported (huggingface_hub and so transformers, wandb,
matplotlib), nor polars, whose import starts threads."""


@dataclass(frozen=True)
class Request:
    """What a child is to be: Python with these arguments."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]


def main() -> None:
    """Serves until the tests have ended; in a child, does what was asked of it."""
    for name in PRELOADED:
        importlib.import_module(name)
    assert "huggingface_hub" not in sys.modules, "a command could not say any more which Hub it asks"
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads cannot be forked safely"
    gc.freeze()  # else the first collection of each child would copy all of it
    become(serve(socket.socket(fileno=os.dup(0))))


def serve(control: socket.socket) -> Request:
    """Forks for each connection that comes by `control`; returns in the children alone."""
    while True:
        sent, (*connections,), *_ = socket.recv_fds(control, 1, 1)
        _forget_the_ended()
        if not sent:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            return watch(socket.socket(fileno=connections[0]))
        os.close(connections[0])


def watch(connection: socket.socket) -> Request:
    """Forks the command and says its number, then how it ended; returns in the command alone."""
    _, streams, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as file:
        request = Request(**json.load(file))
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return request
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (*range(3), *streams):
        os.close(stream)
    try:
        connection.sendall(f"{pid}\n".encode())
        _end_unheard(pid, connection)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its number is its own until its end was said
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        connection.sendall(f"{code}\n".encode())
    finally:
        os._exit(0)


def _end_unheard(pid: int, connection: socket.socket) -> None:
    """Waits for the command's end, and kills it if the other end of `connection` is closed before."""
    poll = select.poll()
    poll.register(os.pidfd_open(pid), select.POLLIN)
    poll.register(connection, 0)  # which tells of its close alone
    if connection.fileno() in dict(poll.poll()):
        os.kill(pid, signal.SIGKILL)


def become(request: Request) -> None:
    """Does what Python does with such arguments, in such surroundings."""
    own = os.environ.get("PYTHONPATH", "")
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    for name, mode, number in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        _renew_stream(name, mode, number)
    numpy.random.seed()  # as each process that imports numpy draws it anew
    tempfile.tempdir = None  # of the server's environment
    kind, *arguments = request.arguments
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *paths, *sys.path[1 + len([path for path in own.split(os.pathsep) if path]) :]]
    if kind == "-m":
        sys.path[0] = request.folder
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *arguments[1:]]
        exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.path[0] = str(Path(kind).absolute().parent)
        sys.argv = request.arguments
        runpy.run_path(kind, run_name="__main__")


def _forget_the_ended() -> None:
    """Takes note of watchers that are done; the seconds of their commands count among this process's from then on."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _renew_stream(name: str, mode: str, number: int) -> None:
    """The server's own may have been a file, which can be sought in, where the command's is a pipe."""
    old: TextIO = getattr(sys, name)
    buffering = 1 if name == "stderr" else -1
    new = os.fdopen(number, mode, buffering, old.encoding, old.errors, closefd=False)
    setattr(sys, name, new)
    setattr(sys, f"__{name}__", new)


if __name__ == "__main__":
    main()
