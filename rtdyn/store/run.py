"""A run directory: the manifest and each step's four Parquet files, whole or not at all.

Every file is written aside, flushed to disk and renamed. A step counts as done only when all its files are
there and carry the digest of the run's configuration, so a run killed at any moment resumes at that step.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from rtdyn.checkpoints.checkpoint import Checkpoint
from rtdyn.errors import InputError
from rtdyn.files import ASIDE, clear_aside, replace_file, write_json
from rtdyn.store.schema import TABLES, StepTables

SCHEMA_VERSION = 3


TASKS = "tasks"
"""Folder of what a cluster's tasks say of themselves, while some may be running."""


_STEP_FILE = re.compile(r"step=[0-9]+\.parquet")


@dataclass(frozen=True)
class Run:
    """A run directory that exists and whose manifest has been read."""

    path: Path
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of the configuration all of the run's tables were made with."""
        return str(self.manifest["config_digest"])


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def open_run(path: Path, manifest: dict[str, Any]) -> Run:
    """Opens `path` as a run with this manifest's configuration, creating it if it is not there.

    Raises InputError if the directory cannot be written, holds something else, or was made with another
    configuration, whose differing settings are named.
    """
    file = path / "manifest.json"
    if file.is_file():
        run = read_run(path)
        if run.digest != manifest["config_digest"]:
            theirs, ours = run.manifest["config"], manifest["config"]
            changed = [
                f"{key} ({json.dumps(theirs.get(key))} there, {json.dumps(ours.get(key))} now)"
                for key in sorted({*theirs, *ours})
                if theirs.get(key) != ours.get(key)
            ]
            raise InputError(f"{path} was made with other settings: {', '.join(changed)}; give another --out")
        return run
    if path.is_dir() and any(child.suffix != ASIDE for child in path.iterdir()):
        raise InputError(f"{path} is not empty and not an rtdyn run; give another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_json(file, manifest)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; give another --out") from error
    return Run(path, manifest)


def read_run(path: Path) -> Run:
    """An existing run. Raises InputError if there is none or its schema is not this version's."""
    file = path / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not an rtdyn run: its manifest.json cannot be read") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has store schema {version}; this rtdyn reads schema {SCHEMA_VERSION}")
    if not isinstance(manifest.get("config"), dict) or "config_digest" not in manifest:
        raise InputError(
            f"{path}/manifest.json lacks its configuration; the run cannot be continued, give another --out"
        )
    return Run(path, manifest)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the run for one writer and clears what a killed one left; the lock ends with the process.

    While a cluster's tasks may be writing steps, their files are left alone. Raises InputError if another process
    holds the run or the directory cannot be written.
    """
    try:
        handle = (path / ".lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; give another --out") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is writing to {path}; wait for it or give another --out") from None
        except OSError as error:
            raise InputError(f"cannot lock {path}: {error.strerror}; give an --out where files can be") from error
        if not (path / TASKS).is_dir():
            clear_aside(path)
        yield


def write_step(run: Run, step: int, checkpoint: Checkpoint, tables: StepTables) -> None:
    """Stores a step's tables; the step is done when the last of them is renamed into place."""
    record = {"revision": checkpoint.revision, "commit": checkpoint.commit, "digests": checkpoint.digests}
    _write(run, step, {**record, **({"read_by_ranges": True} if checkpoint.ranges else {})}, tables)


def write_copy(run: Run, of: int, step: int, tokens_seen: int | None, revision: str, commit: str) -> None:
    """Stores the tables of the done step `of` as those of another step with the same weights, in its own revision."""
    own = {"step": pl.lit(step, pl.Int64), "tokens_seen": pl.lit(tokens_seen, pl.Int64)}
    copies = {}
    for table in TABLES:
        frame = pl.read_parquet(table_file(run, table, of))
        copies[table] = frame.with_columns(**{name: own[name] for name in own if name in frame.columns})
    metadata = _metadata(table_file(run, TABLES[0], of))
    record = json.loads(metadata["checkpoint"])
    copied = StepTables(**copies, fingerprint=metadata.get("fingerprint", ""))
    _write(run, step, {**record, "revision": revision, "commit": commit, "copy_of": of}, copied)


def _write(run: Run, step: int, record: dict[str, Any], tables: StepTables) -> None:
    metadata = {
        "config_digest": run.digest,
        "checkpoint": json.dumps(record),
        "fingerprint": tables.fingerprint,
    }
    for table in TABLES:
        frame: pl.DataFrame = getattr(tables, table)
        file = table_file(run, table, step)
        replace_file(file, partial(frame.write_parquet, metadata=metadata))


def table_file(run: Run, table: str, step: int) -> Path:
    """Where a step's table lies."""
    return run.path / table / f"step={step:06d}.parquet"


def done_steps(run: Run) -> dict[int, dict[str, Any]]:
    """The steps that are stored whole, ascending, each with its checkpoint's revision, commit and digests."""
    steps = {}
    folder = run.path / TABLES[0]
    files = [f for f in folder.iterdir() if _STEP_FILE.fullmatch(f.name)] if folder.is_dir() else []
    for step in sorted(map(_step_of, files)):
        record = step_record(run, step)
        if record is not None:
            steps[step] = record
    return steps


def step_record(run: Run, step: int) -> dict[str, Any] | None:
    """A step's checkpoint: revision, commit and digests; None unless it is stored whole."""
    files = [table_file(run, table, step) for table in reversed(TABLES)]
    if not all(file.is_file() for file in files):
        return None
    *others, first = map(_metadata, files)
    whole = all(m.get("config_digest") == run.digest for m in (first, *others))
    return dict(json.loads(first["checkpoint"])) if whole else None


def read_fingerprints(run: Run, steps: Iterable[int]) -> dict[int, str]:
    """The text of each step's fingerprint, where one is stored."""
    found = {step: _metadata(table_file(run, TABLES[0], step)).get("fingerprint") for step in steps}
    return {step: text for step, text in found.items() if text}


def read_table(run: Run, table: str) -> pl.DataFrame:
    """One table over all done steps, ascending. Raises InputError if no step is done."""
    files = [table_file(run, table, step) for step in done_steps(run)]
    if not files:
        raise InputError(f"{run.path} holds no finished step yet")
    return pl.concat([pl.read_parquet(file) for file in files])


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step="))


def _metadata(file: Path) -> dict[str, str]:
    try:
        return pl.read_parquet_metadata(file)
    except (OSError, pl.exceptions.PolarsError):
        return {}
