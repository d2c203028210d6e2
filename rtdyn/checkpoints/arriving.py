"""Steps of a training run that is still going on: each is taken in links of our own, before its trainer deletes it."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from rtdyn.checkpoints.checkpoint import Checkpoint, read_json, weight_files
from rtdyn.checkpoints.local import fetch_local
from rtdyn.checkpoints.stream import Stream, Tell
from rtdyn.errors import InputError
from rtdyn.hub.names import CONFIG, TOKENIZER_FILES
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.suites.suite import SuiteSpec


@dataclass(frozen=True)
class Arriving:
    """A training run whose steps are taken as they come."""

    suite: Callable[[], SuiteSpec]
    """The run as it is now, with the steps that have come so far, by its name and where it lies."""
    here: SuiteSpec
    """The same, as text and configuration are prepared from the steps that arrived."""
    stream: Stream
    """Each step it gives can be taken, and the first text and configuration be prepared from."""
    check_stored: Callable[[int, CheckpointRecord], None]
    """Holds a step that it gave against its record in the run. Raises InputError if the run cannot be gone on with."""


def arrivals_folder(out: Path) -> Path:
    """A new folder for the links of steps that arrive for a run directory: beside it, to lie on the same disk.

    What processes of this machine left there that were killed is deleted. Raises InputError if it cannot be made.
    """
    begins = f".{out.name}.arrived-{platform.node()}-"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f"{glob.escape(begins)}*"):
            if not psutil.pid_exists(int(left.name.removeprefix(begins))):
                shutil.rmtree(left, ignore_errors=True)
        folder = out.with_name(f"{begins}{os.getpid()}")
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out.parent} ({error.strerror}); give another --out") from error
    return folder


def step_link(folder: Path, step: int) -> Path:
    """The folder of an arrived step's links."""
    return folder / f"step{step}"


def link_step(folder: Path, tokenizer: Path, into: Path, *, copy: bool) -> None:
    """Puts links to a checkpoint's files into the folder `into`: config.json, weights, and the tokenizer's.

    The files stay for as long as their links do, whoever deletes the checkpoint. tokenizer: the folder that holds it
    where the checkpoint's own does not. copy: whether a file is copied where the disk gives no second link; else it is
    linked by its name, and lost with the checkpoint. Raises OSError if a file is gone or cannot be linked, and
    InputError if the checkpoint holds no weights; nothing is left of it then.
    """
    names = {child.name for child in folder.iterdir() if child.is_file()}
    weights = weight_files(names, lambda name: read_json(folder / name), str(folder))
    files = [folder / name for name in (CONFIG, *weights)]
    home = next((f for f in (folder, tokenizer) if any((f / name).is_file() for name in TOKENIZER_FILES)), folder)
    files += [file for name in TOKENIZER_FILES if (file := home / name).is_file()]
    aside = into.with_name(f".{into.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        for file in files:
            _link(file, aside / file.name, copy=copy)
        aside.rename(into)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _link(file: Path, to: Path, *, copy: bool) -> None:
    source = file.resolve(strict=True)
    try:
        os.link(source, to)
    except FileNotFoundError:
        raise
    except OSError:
        if copy:
            shutil.copy2(source, to)
        else:
            to.symlink_to(source)


def linked_steps(suite: Callable[[], SuiteSpec], folder: Path, steps: Iterable[int]) -> Arriving:
    """The steps whose links lie in `folder` when `steps` gives them; a step's links go once it is released.

    suite: the run as it is now.
    """
    run = suite()
    assert run.path is not None
    here = SuiteSpec(
        name=run.name,
        steps=run.steps,
        revision="step{step}",
        path=folder,
        repo=None,
        tokens_per_step=run.tokens_per_step,
        family=run.family,
        corpus=run.corpus,
        frequencies=run.frequencies if run.frequencies == "corpus" else str(run.path / run.frequencies),
        note=run.note,
        defects=run.defects,
    )

    def take(step: int, tell: Tell) -> Checkpoint:
        return replace(fetch_local(here, step), revision=suite().revision_of(step))

    def release(step: int) -> None:
        shutil.rmtree(step_link(folder, step), ignore_errors=True)

    def check_stored(step: int, record: CheckpointRecord) -> None:
        if fetch_local(here, step).digests != record.digests:
            where = f"{suite().location}/{suite().revision_of(step)}"
            raise InputError(f"{where} is not what step {step} of the run was made from; give another --out")

    return Arriving(suite, here, Stream(steps, take, release), check_stored)


def gone_after(steps: Iterable[int], folder: Path) -> Iterator[int]:
    """The steps, and at the end the folder of their links is deleted."""
    try:
        yield from steps
    finally:
        shutil.rmtree(folder, ignore_errors=True)
