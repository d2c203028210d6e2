"""A task at work, on whatever machine: its steps are streamed, analysed and stored as the command itself would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rtdyn.checkpoints.stream import Stream, open_stream
from rtdyn.errors import InputError, ParityError, brief
from rtdyn.execute.ledger import Try, begin_try, end_try, given_up, leave, tries, write_seconds
from rtdyn.execute.serial import may_be_this_machines, run_serial
from rtdyn.execute.task import Task
from rtdyn.store.run import differing_settings, done_with, read_run
from rtdyn.store.schema import StepTables
from rtdyn.store.stage_log import StageClock
from rtdyn.sweep.sweep import device_here, prepare_sweep


@dataclass
class Worker:
    """A task's process. It can be told to leave at any moment, from a signal's handler."""

    task: Task
    begun: list[Try] = field(default_factory=list)
    """Steps in work: one, or a repeat within another."""
    stored: int = 0
    leaving: bool = False

    def leave(self, sentence: str | None = None) -> None:
        """It is about to be stopped: its steps in work count as tries only if there is a sentence to say why."""
        self.leaving = True
        for attempt in self.begun:
            end_try(attempt, sentence)
        if sentence is None:
            leave(self.task.run, self.task.name, self.begun[-1].step if self.begun else None)

    def work(self) -> None:
        """Stores every step of the task that is not stored yet.

        A step that cannot be used is noted, and the others go on. It is noted for good unless this machine's disk or
        network failed. Any other error is noted with the step in work and raised, since the process may be spoilt.
        Raises InputError before the first step if this machine does not come to the run's configuration. Raises
        ParityError at it if the model is not read as transformers runs it.
        """
        task = self.task
        run = read_run(task.run)
        known = tries(task.run)
        whole = done_with(run, task.options.analyses)
        left = [s for s in task.steps if s not in whole and not given_up(known.get(s, ()))]
        if not left:
            return
        device_here(task.options.device)
        sweep = prepare_sweep(task.suite, task.reference, task.measured_on, task.options)
        config = {**sweep.config, "location": task.location}
        differing = differing_settings(run.manifest.config, config)
        differing.pop("analyses", None)
        if differing or run.digest != task.config_digest:
            words = ", ".join(differing.values()) or "its digest"
            raise InputError(
                f"{os.uname().nodename} comes to another configuration than the run ({words}); "
                "it needs the same rtdyn and the same sources"
            )
        with open_stream(task.suite, left, whole, task.cache_gb, sweep.weights_only, _say) as stream:
            clock = StageClock(lambda stage: None)

            def done(step: int, tables: StepTables | None) -> None:
                self.stored += 1
                if tables is not None:
                    write_seconds(task.run, step, clock.end())

            run_serial(sweep, stream, run, clock, lambda step: self._trying(step, stream), done)

    @contextmanager
    def _trying(self, step: int, stream: Stream) -> Iterator[None]:
        attempt = begin_try(self.task.run, step, self.task.name)
        self.begun.append(attempt)
        try:
            yield
            end_try(attempt, None)
        except ParityError as error:
            end_try(attempt, str(error), final=True, ends_run=True)
            raise
        except InputError as error:
            if self.leaving:  # the signal may have led to it, and `leave` has said what there is to say
                raise
            final = not may_be_this_machines(error)
            end_try(attempt, str(error), final)
            for repeat in stream.repeats.get(step, ()):
                end_try(begin_try(self.task.run, repeat.step, self.task.name), str(error), final)
            stream.release(step)
        except Exception as error:
            if not self.leaving:
                end_try(attempt, brief(error))
            raise
        finally:
            self.begun.remove(attempt)


def _say(text: str) -> None:
    print(text, flush=True)
