"""The other end of `worker`: a training process hands it steps and never waits, but at the end."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import IO, Any

from rtdyn.checkpoints.arriving import step_link
from rtdyn.integrations.worker import Assignment

SAID, FINISHED, FAILED, OVERTAKEN, LOST = "said", "finished", "failed", "overtaken", "lost"
"""Kinds of news; a step is overtaken by a newer one, and lost where the process has ended."""


class WorkerProcess:
    """A process that analyses one step at a time; one more may wait, and gives way to a newer one."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.changed = threading.Condition()
        self.at_work: int | None = None
        self.waiting: int | None = None
        self.tokens: dict[int, int] = {}
        """Training tokens seen at the steps that were handed over, where they are known."""
        self.news: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        command = [sys.executable, "-m", "rtdyn.integrations.worker"]
        # in a session of its own, as Ctrl-C is for the training
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._send(pickle.dumps(assignment))
        self.listener = threading.Thread(target=self._listen, name="rtdyn worker", daemon=True)
        self.listener.start()

    def give(self, step: int, tokens_seen: int | None) -> None:
        """Hands over a step whose links lie ready. tokens_seen: None where they are not known."""
        with self.changed:
            if tokens_seen is not None:
                self.tokens[step] = tokens_seen
            if self.at_work is None:
                self._begin(step)
            else:
                self._drop(self.waiting, OVERTAKEN)
                self.waiting = step

    def told(self) -> Iterator[tuple[str, Any]]:
        """What is new: a line that was said, a step that is done with or dropped, or what ended the process."""
        try:
            while True:
                yield self.news.get_nowait()
        except Empty:
            return

    def finish(self) -> None:
        """Waits until the steps that were handed over are done with, and the process has ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.at_work is None)
        self._input.close()
        self.listener.join()
        self.process.wait()
        shutil.rmtree(self.assignment.folder, ignore_errors=True)

    @property
    def _input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def _send(self, data: bytes) -> None:
        try:
            self._input.write(data)
            self._input.flush()
        except BrokenPipeError:
            return  # it has ended, which its listener says

    def _begin(self, step: int) -> None:
        if self.process.poll() is not None:
            self._drop(step, LOST)
            return
        self.at_work = step
        self._send(f"{step} {self.tokens.get(step, '')}\n".encode())

    def _drop(self, step: int | None, why: str) -> None:
        if step is not None:
            shutil.rmtree(step_link(self.assignment.folder, step), ignore_errors=True)
            self.news.put((why, step))

    def _listen(self) -> None:
        assert self.process.stdout is not None
        failed = False
        for line in self.process.stdout:
            ((kind, what),) = json.loads(line).items()
            self.news.put((kind, what))
            failed = failed or kind == FAILED
            if kind == FINISHED:
                with self.changed:
                    waiting, self.at_work, self.waiting = self.waiting, None, None
                    if waiting is not None:
                        self._begin(waiting)
                    self.changed.notify_all()
        code = self.process.wait()
        with self.changed:
            if not failed and (code or self.at_work is not None):
                self.news.put((FAILED, f"its process ended (exit code {code})"))
            for step in (self.at_work, self.waiting):
                self._drop(step, LOST)
            self.at_work = self.waiting = None
            self.changed.notify_all()
