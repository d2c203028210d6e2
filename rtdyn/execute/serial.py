"""One step after another, in this process: how the command itself runs a sweep, and a worker its task."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from rtdyn.checkpoints.fetch_plan import Repeat
from rtdyn.checkpoints.stream import Stream
from rtdyn.errors import InputError, ParityError
from rtdyn.hub.retry import may_pass
from rtdyn.store.run import Run, write_copy, write_step
from rtdyn.store.schema import StepTables
from rtdyn.store.stage_log import StageClock
from rtdyn.sweep.extend import analyse_lacking, join
from rtdyn.sweep.sweep import Sweep

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass
class PassedOver:
    """Steps that could not be analysed, in a run that goes on without them."""

    release: Callable[[int], None]
    """The stream's."""
    repeats: Mapping[int, Sequence[Repeat]]
    """The stream's: they fail with the step whose weights they have."""
    say: Callable[[int, str], None]
    """Told a step and why it is passed over."""
    reasons: dict[int, str] = field(default_factory=dict)
    """By step."""

    @contextmanager
    def trying(self, step: int) -> Iterator[None]:
        """Held while a step is worked on. Raises InputError only where no further step could be stored either."""
        try:
            yield
        except ParityError:
            raise
        except InputError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
                raise
            for lost in (step, *(repeat.step for repeat in self.repeats.get(step, ()))):
                self.reasons[lost] = str(error)
                self.say(lost, str(error))
            self.release(step)


def may_be_this_machines(error: InputError) -> bool:
    """Whether a disk or the network kept a step from being had, so that another time or machine may have it."""
    cause = error.__cause__
    return cause is not None and (isinstance(cause, OSError) or may_pass(cause))


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
    of each stored step, with None for a copy. The first step that is analysed is compared with transformers' own model.
    """
    compared = False

    def copy_to_repeats(of: int) -> None:
        for repeat in stream.repeats.get(of, ()):
            with trying(repeat.step):
                tokens_seen = sweep.suite.tokens_seen(repeat.step)
                write_copy(run, of, repeat.step, tokens_seen, repeat.revision, repeat.commit, join)
                done(repeat.step, None)

    if stream.repeats:  # of steps that come one by one nothing is known before
        for step in sorted(stream.repeats.keys() - set(stream.steps)):
            copy_to_repeats(step)
    for step in stream.steps:
        with trying(step):
            clock.end()  # of a step that failed
            clock.begin("fetch")
            checkpoint = stream.take(step, clock.tell)
            tables = analyse_lacking(sweep, run, checkpoint, clock.begin, parity=not compared)
            compared = True
            clock.begin("store")
            write_step(run, step, checkpoint.record, tables)
            done(step, tables)
            stream.release(step)
            copy_to_repeats(step)
