"""One step after another, in this process: how the command itself runs a sweep, and a worker its task."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from rtdyn.checkpoints.stream import Stream
from rtdyn.store.run import Run, write_copy, write_step
from rtdyn.store.schema import StepTables
from rtdyn.store.stage_log import StageClock
from rtdyn.sweep.sweep import Sweep


def run_serial(
    sweep: Sweep,
    stream: Stream,
    run: Run,
    clock: StageClock,
    trying: Callable[[int], AbstractContextManager[None]],
    done: Callable[[int, StepTables | None], None],
) -> None:
    """Takes, analyses and stores each of the stream's steps before the next; repeats get copies of the tables.

    trying(step) is held while a step is worked on, and may swallow what goes wrong with it. done(step, tables) is told
    of each stored step, with None for a copy.
    """

    def copy_to_repeats(of: int) -> None:
        for repeat in stream.repeats.get(of, ()):
            with trying(repeat.step):
                write_copy(run, of, repeat.step, sweep.suite.tokens_seen(repeat.step), repeat.revision, repeat.commit)
                done(repeat.step, None)

    for step in sorted(stream.repeats.keys() - set(stream.steps)):
        copy_to_repeats(step)
    for step in stream.steps:
        with trying(step):
            clock.begin("fetch")
            checkpoint = stream.take(step, clock.tell)
            tables = sweep.analyse(checkpoint, clock.begin)
            clock.begin("store")
            write_step(run, step, checkpoint.record, tables)
            done(step, tables)
            stream.release(step)
            copy_to_repeats(step)
