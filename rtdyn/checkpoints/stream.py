"""A suite's checkpoints one after another, wherever they lie; the Hub's are downloaded ahead and deleted behind."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rtdyn.checkpoints.checkpoint import Checkpoint, sha256_of
from rtdyn.checkpoints.disk import Scratch, open_scratch
from rtdyn.checkpoints.fetch_plan import Repeat, StepPlan, SweepPlan, plan_sweep
from rtdyn.checkpoints.local import fetch_local
from rtdyn.checkpoints.tensors import PARTIAL, write_partial
from rtdyn.errors import InputError
from rtdyn.hub.download import download
from rtdyn.hub.names import CONFIG
from rtdyn.hub.ranges import StoppedError, Transfer
from rtdyn.hub.repository import check_cached, in_cache
from rtdyn.hub.retry import CONTENT, Patience
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.suites.suite import SuiteSpec

GB = 10**9
MOST_OF_DISK = 0.95
"""Share of the free disk that may be used: the run directory may lie there too."""
LEAVING_SECONDS = 2.0
"""How long the end of a stream waits for a connection that is silent; it ends by itself then."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Stream:
    """The checkpoints of a sweep."""

    steps: Iterable[int]
    """Those to take, in this order; of a run that is still going on they come one by one."""
    take: Callable[[int, Tell], Checkpoint]
    """A step's checkpoint, on disk and verified; told what is waited for. Raises InputError if it cannot be had."""
    release: Callable[[int], None] = lambda step: None
    """To be called once a step is analysed: its files may go."""
    repeats: Mapping[int, tuple[Repeat, ...]] = field(default_factory=dict)
    """Steps that are not taken since another, taken or stored, has their weights: by that one."""


@contextmanager
def open_stream(
    suite: SuiteSpec,
    steps: Sequence[int],
    stored: Mapping[int, CheckpointRecord],
    cache_gb: float,
    weights_only: bool,
    say: Tell,
    patience: Patience = CONTENT,
    keep: bool = False,
) -> Iterator[Stream]:
    """The checkpoints of `steps`, of which a Hub's are downloaded in the background, at most `cache_gb` on the disk.

    stored: records of the steps that are done, whose weights need not come again. weights_only: only the final MLP's
    tensors are needed. keep: the first steps' files stay, up to half of `cache_gb`, for a run over the same steps that
    comes next. Raises InputError before anything is downloaded if the disk cannot hold the largest step.
    """
    if suite.repo is None:
        yield Stream(tuple(steps), lambda step, tell: fetch_local(suite, step))
        return
    transfer = Transfer(patience=patience)
    plan = plan_sweep(suite, steps, stored, weights_only, transfer)
    if not plan.steps:
        yield Stream((), lambda step, tell: fetch_local(suite, step), repeats=plan.repeats)
        return
    scratch = open_scratch(suite.repo, int(cache_gb * GB))
    try:
        _prepare(scratch, plan, say)
        if keep:
            largest = max((p.bytes for p in plan.steps if isinstance(p, StepPlan)), default=0)
            scratch.spare = max(0, min(scratch.budget // 2, scratch.budget - largest))
    except BaseException:
        scratch.close()
        raise
    downloads = _Downloads(plan, scratch, transfer, say)
    downloads.start()
    try:
        yield Stream(plan.numbers, downloads.take, scratch.release, plan.repeats)
    finally:
        downloads.stop()


def alike(
    suite: SuiteSpec, steps: Sequence[int], stored: Mapping[int, CheckpointRecord], weights_only: bool
) -> list[tuple[int, ...]]:
    """The steps by their weights, as far as the Hub's metadata tell: those of one tuple are fetched at most once.

    A folder's files are not compared: each step is by itself.
    """
    if suite.repo is None:
        return [(step,) for step in steps]
    plan = plan_sweep(suite, steps, stored, weights_only, Transfer())
    owners = sorted({*plan.numbers, *plan.repeats})
    units = [{of, *(r.step for r in plan.repeats.get(of, ()))} & set(steps) for of in owners]
    return sorted(tuple(sorted(unit)) for unit in units if unit)


def _prepare(scratch: Scratch, plan: SweepPlan, say: Tell) -> None:
    """Clears what earlier runs left and this one cannot use, and holds the need against budget and disk."""
    plans = [p for p in plan.steps if isinstance(p, StepPlan)]
    if not plans:
        return
    window: dict[str, int] = {}
    for step_plan in plans:
        if window and sum({**window, **step_plan.disk_bytes}.values()) > scratch.budget:
            break
        window.update(step_plan.disk_bytes)
    stay = scratch.clear_but(window)
    usable = int(MOST_OF_DISK * shutil.disk_usage(scratch.folder).free) + stay
    largest = max(plans, key=lambda p: p.bytes)
    if largest.bytes > usable:
        raise InputError(
            f"step {largest.step} takes {_gb(largest.bytes)} and {scratch.folder.parent} has {_gb(usable)} free; "
            "make room there, or set HF_HOME to a larger disk"
        )
    if largest.bytes > scratch.budget:
        say(f"--cache-gb is less than step {largest.step} takes ({_gb(largest.bytes)}): one checkpoint at a time")
    needed = min(scratch.budget, sum({k: v for p in plans for k, v in p.disk_bytes.items()}.values()))
    if needed > usable:
        say(f"{scratch.folder.parent} has {_gb(usable)} free, less than --cache-gb: no more than that is used")
        scratch.budget = usable


def _gb(size: int) -> str:
    return f"{size / GB:,.2f} GB" if size >= GB / 1000 else f"{size / 1e6:,.1f} MB"


class _Downloads:
    """A thread that fetches a plan's steps in order, as far ahead as the scratch space allows."""

    def __init__(self, plan: SweepPlan, scratch: Scratch, transfer: Transfer, say: Tell) -> None:
        self.plan, self.scratch, self.say = plan, scratch, say
        self.transfer = replace(transfer, arrived=self._arrived)
        self.outcome: dict[int, Checkpoint | BaseException] = {}
        self.ready = threading.Condition()
        self.working: StepPlan | None = None
        self.bytes = 0
        self.users = 2
        self.thread = threading.Thread(target=self._work, name="rtdyn downloads", daemon=True)

    def start(self) -> None:
        """Begins with the first step."""
        self.thread.start()

    def take(self, step: int, tell: Tell) -> Checkpoint:
        """Waits for a step, saying how far it is. Raises what kept it from coming."""
        with self.ready:
            while step not in self.outcome:
                tell(self._status())
                self.ready.wait(0.2)
        outcome = self.outcome[step]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def stop(self) -> None:
        """Ends all downloads. What came whole or in part stays for the next run, if any."""
        self.transfer.stop.set()
        self.thread.join(LEAVING_SECONDS)
        self._leave()

    def _leave(self) -> None:
        """The last of thread and stream to go closes the scratch space, so that nothing is written to it afterwards."""
        with self.ready:
            self.users -= 1
            if self.users:
                return
        left = self.scratch.close()
        if left:
            self.say(f"{_gb(left)} that came ahead stay in {self.scratch.folder}; the next run uses or clears them")

    def _arrived(self, count: int) -> None:
        with self.ready:  # += is not atomic, and large files come over several connections
            self.bytes += count

    def _status(self) -> str:
        if self.working is None:
            return "fetch"
        return f"downloading step {self.working.step}: {self.bytes / 1e6:,.1f} of {self.working.bytes / 1e6:,.1f} MB"

    def _work(self) -> None:
        try:
            for step, plan in zip(self.plan.numbers, self.plan.steps, strict=True):
                outcome = plan if isinstance(plan, InputError) else self._outcome(plan)
                if outcome is None:
                    return
                with self.ready:
                    self.outcome[step], self.working = outcome, None
                    self.ready.notify_all()
        finally:
            self._leave()

    def _outcome(self, plan: StepPlan) -> Checkpoint | BaseException | None:
        """The step's checkpoint, or what is to be raised where it is asked for; None if the stream was stopped."""
        try:
            self.scratch.reserve(plan.step, plan.disk_bytes, self.transfer.stop)
            self.working, self.bytes = plan, 0
            return self._fetch(plan)
        except StoppedError:
            return None
        except BaseException as error:  # raised by `take`, which would wait for ever
            return error

    def _fetch(self, plan: StepPlan) -> Checkpoint:
        """The step's folder: its small files, and links to its weights in the user's cache or in the scratch space."""
        folder = self.scratch.folder / plan.folder
        try:
            folder.mkdir()
            for name, data in plan.small.items():
                if name == CONFIG or not plan.tensors:
                    (folder / name).write_bytes(data)
        except OSError as error:
            raise InputError(f"cannot write to {folder} ({error.strerror}); make room there") from error
        revision, digests = plan.revision, plan.digests() or {}
        if plan.tensors:
            write_partial(folder / PARTIAL, revision, plan.tensors, self.transfer)
            return Checkpoint(plan.step, folder, plan.name, revision.commit, digests, ranges=True)
        for file in plan.weights:
            theirs = in_cache(revision, file)
            path = theirs or self.scratch.folder / file.etag
            if theirs is None:
                digests[file.name] = download(revision, file, path, self.transfer)
            else:
                digests[file.name] = check_cached(path, revision, file).sha256.hexdigest()
            (folder / file.name).symlink_to(path.resolve())
        for name in plan.small.keys() - {CONFIG}:
            digests[name] = sha256_of(folder / name)
        return Checkpoint(plan.step, folder, plan.name, revision.commit, digests)
