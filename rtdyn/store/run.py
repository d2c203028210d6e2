"""A run directory: the manifest and each step's Parquet files, whole or not at all.

Every file is written aside, flushed to disk and renamed. A step counts as done only when all its files are there and
carry the digest of the run's configuration. So a run killed at any moment resumes at that step.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from rtdyn.blame import reading
from rtdyn.errors import InputError, first_fault
from rtdyn.file_lock import take_lock
from rtdyn.files import ASIDE, clear_aside, replace_file, write_json
from rtdyn.git_lfs import refuse_pointer
from rtdyn.names import ANALYSES, GROUPED, LAYERS, RARE
from rtdyn.parquet import read_metadata, read_parquet
from rtdyn.store.definitions import LAYER_METRICS
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.schema import DOMAIN_TABLES, TABLES, StepTables

MANIFEST = "manifest.json"
_LOCK = ".lock"

UNSAID = {"layers": "last"}
"""What settings are where a configuration does not name them, as those of earlier versions do not."""
TASKS = "tasks"
"""Folder of what a cluster's tasks say of themselves, while some may be running."""
_STEP_FILE = re.compile(r"step=[0-9]+\.parquet")


@dataclass(frozen=True)
class Run:
    """A run directory that exists and whose manifest has been read."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Digest of the configuration all of the run's tables were made with."""
        return self.manifest.config_digest


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration but for its analyses, of which a run may get more; in whatever order its keys are."""
    settings = {name: value for name, value in config.items() if name != "analyses"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def differing_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, str]:
    """What two configurations differ in, by the setting, in words: `seed 0 → 3`."""
    return {
        key: " → ".join([f"{key} {_in_words(_setting(theirs, key))}", _in_words(_setting(ours, key))])
        for key in sorted({*theirs, *ours})
        if theirs.get(key) != ours.get(key)
    }


def _setting(config: Mapping[str, Any], key: str) -> Any:
    """A setting, or what is meant where a configuration does not name it; None where nothing is."""
    return config.get(key, UNSAID.get(key))


def _in_words(setting: Any) -> str:
    """A setting as one types it; of a digest the beginning."""
    if isinstance(setting, list | tuple):
        return " ".join(map(str, setting))
    return "none" if setting is None else re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", str(setting))


def _other_settings(theirs: Manifest, ours: Manifest) -> list[str]:
    """`differing_settings` of two runs but for their analyses: sources by their names, and no digest that follows."""
    differing = differing_settings(theirs.config, ours.config)
    differing.pop("analyses", None)
    targets = [m.classes[RARE].measured if RARE in m.classes else None for m in (theirs, ours)]
    if targets[0] != targets[1]:
        differing["rare_targets"] = f"rare targets {targets[0]} → {targets[1]}"
    text, other = theirs.evaluation, ours.evaluation
    if text is None or other is None:
        return ["one is of weights alone, the other of a text"] if text is not other else list(differing.values())
    counts = [record.source for record in (theirs.frequencies, ours.frequencies) if record is not None]
    for key, (a, b) in {"corpus": (text.corpus, other.corpus), "frequencies": tuple(counts)}.items():
        if key in differing:
            differing[key] = f"{key} {a} → {b}" if a != b else f"{key} {a}, which holds something else now"
    if text.tokens != other.tokens:
        differing["tokens"] = f"tokens {text.tokens} → {other.tokens}"
    if len(differing) > 1:
        differing.pop("evaluation_set", None)
    return list(differing.values())


def open_run(path: Path, manifest: Manifest) -> Run:
    """Opens `path` as a run with this manifest's configuration, creating it if it is not there.

    Its analyses may be others: the run that is returned names those of both. Raises InputError if the directory cannot
    be written, holds something else, or was made with another configuration, whose differing settings are named.
    """
    if (path / MANIFEST).is_file():
        run = read_run(path)
        if changed := _other_settings(run.manifest, manifest):
            raise InputError(f"{path} was made with other settings: {', '.join(changed)}; give another --out")
        named = {*run.manifest.config.get("analyses", ()), *manifest.config.get("analyses", ())}
        config = {**run.manifest.config, "analyses": [name for name in ANALYSES if name in named]}
        return Run(path, run.manifest.replace(config=config)) if named else run
    if path.is_dir() and any(child.suffix != ASIDE for child in path.iterdir()):
        raise InputError(f"{path} is not empty and not an rtdyn run; give another --out")
    run = Run(path, manifest)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_manifest(run)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; give another --out") from error
    return run


def shorter_or_longer(path: Path, manifest: Manifest) -> str | None:
    """Which run beside `path` differs from this manifest in the extent of its text alone, in words; None if none does.

    A run goes on under the very configuration that it began with, so that more targets mean another run.
    """
    for file in sorted(path.parent.glob(f"{glob.escape(manifest.suite)}-*/{MANIFEST}")):
        try:
            run = read_run(file.parent)
        except InputError:
            continue  # another version's or a damaged one, of which nothing is asked here
        changed = differing_settings(run.manifest.config, manifest.config).keys()
        if changed and changed <= {"evaluation_set", "corpus", "frequencies", "domains"}:
            return f"{run.path} has other text: {', '.join(_other_settings(run.manifest, manifest))}"
    return None


def write_manifest(run: Run) -> None:
    """Replaces manifest.json by the run's; keys of the file keep their places. Raises InputError if it cannot."""
    file = run.path / MANIFEST
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_json(file, {**earlier, **run.manifest.as_json()})


def read_run(path: Path) -> Run:
    """An existing run. Raises InputError if there is none, its schema is not this version's, or its manifest is odd."""
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(f"{path} is not an rtdyn run: it has no manifest.json")
    try:
        with reading(str(file)):
            refuse_pointer(file)
            data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not an rtdyn run: its manifest.json cannot be read as JSON") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has store schema {version}; this rtdyn reads schema {SCHEMA_VERSION}")
    try:
        return Run(path, Manifest.model_validate(data))
    except ValidationError as error:
        at_config = error.errors()[0]["loc"][0] in ("config", "config_digest")
        fault = "lacks its configuration" if at_config else f"is damaged ({first_fault(error)})"
        raise InputError(f"{path}/manifest.json {fault}; the run cannot be continued, give another --out") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the run for one writer and clears what a killed one left; the lock ends with the process.

    While a cluster's tasks may be writing steps, their files are left alone. Raises InputError if another process
    holds the run or the directory cannot be written.
    """
    try:
        handle = (path / _LOCK).open("w")
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; give another --out") from error
    with handle:
        try:
            held = take_lock(handle)
        except OSError as error:
            raise InputError(f"cannot lock {path}: {error.strerror}; give an --out where files can be") from error
        if not held:
            raise InputError(f"another process is writing to {path}; wait for it or give another --out")
        if not (path / TASKS).is_dir():
            clear_aside(path)
        yield


def is_held(path: Path) -> bool:
    """Whether a process is writing to the run; False too where files cannot be locked."""
    try:
        with (path / _LOCK).open() as handle:
            return not take_lock(handle, shared=True)
    except OSError:
        return False


def write_step(run: Run, step: int, checkpoint: CheckpointRecord, tables: StepTables) -> None:
    """Stores a step's tables; the step is done when the last of them is renamed into place.

    metrics/ comes last: it says which analyses the step holds, and the other tables may hold more for a moment.
    """
    metadata = {
        "config_digest": run.digest,
        "checkpoint": json.dumps(checkpoint.as_json()),
    }
    fingerprint = {"fingerprint": tables.fingerprint}  # in one table only, as it grows with the model
    for table in reversed(tables_of(run)):
        frame: pl.DataFrame = getattr(tables, table)
        file = table_file(run, table, step)
        noted = {**metadata, **(fingerprint if table == TABLES[0] else {})}
        replace_file(file, partial(frame.write_parquet, metadata=noted))


def write_copy(
    run: Run,
    of: int,
    step: int,
    tokens_seen: int | None,
    revision: str,
    commit: str,
    join: Callable[[StepTables, StepTables], StepTables],
) -> None:
    """Stores the tables of the done step `of` as those of another step with the same weights, in its own revision.

    join: what a stored step's tables and these make together, as the step may hold analyses that `of` does not.
    """
    columns = {"step": pl.lit(step, pl.Int64), "tokens_seen": pl.lit(tokens_seen, pl.Int64)}
    copies = {}
    for table in tables_of(run):
        frame = read_parquet(table_file(run, table, of))
        copies[table] = frame.with_columns(**{name: columns[name] for name in columns if name in frame.columns})
    metadata = _metadata(table_file(run, TABLES[0], of))
    record = CheckpointRecord.model_validate_json(metadata["checkpoint"])
    copied = StepTables(**copies, fingerprint=metadata.get("fingerprint", ""))
    if step_record(run, step) is not None:
        copied = join(read_step(run, step), copied)
    write_step(run, step, record.replace(revision=revision, commit=commit, copy_of=of), copied)


def tables_of(run: Run) -> tuple[str, ...]:
    """The tables that each step of the run has; metrics/ is the first."""
    return (*TABLES, *DOMAIN_TABLES) if run.manifest.domains else TABLES


def table_file(run: Run, table: str, step: int) -> Path:
    """Where a step's table lies."""
    return run.path / table / f"step={step:06d}.parquet"


def done_steps(run: Run) -> dict[int, CheckpointRecord]:
    """The steps that are stored whole, ascending, each with what it was made from."""
    steps = {}
    folder = run.path / TABLES[0]
    files = [f for f in folder.iterdir() if _STEP_FILE.fullmatch(f.name)] if folder.is_dir() else []
    for step in sorted(map(_step_of, files)):
        record = step_record(run, step)
        if record is not None:
            steps[step] = record
    return steps


def step_record(run: Run, step: int) -> CheckpointRecord | None:
    """What a step was made from; None unless it is stored whole."""
    files = [table_file(run, table, step) for table in reversed(tables_of(run))]
    if not all(file.is_file() for file in files):
        return None
    *others, first = map(_metadata, files)
    whole = all(m.get("config_digest") == run.digest for m in (first, *others))
    return CheckpointRecord.model_validate_json(first["checkpoint"]) if whole else None


def lacking(run: Run, step: int, analyses: Iterable[str]) -> tuple[str, ...]:
    """Those of the analyses that a stored step has no rows of, or none of its layers before the last where it has such.

    Earlier versions measured fewer analyses of these layers.
    """
    rows = read_parquet(table_file(run, "metrics", step), ["analysis", "metric"])
    held, of_layers = set(rows["analysis"]), set(rows.filter(analysis=LAYERS)["metric"])
    if of_layers:
        held -= {name for name in GROUPED if of_layers.isdisjoint(chain(*(d.names for d in LAYER_METRICS[name])))}
    return tuple(name for name in analyses if name not in held)


def done_with(run: Run, analyses: Collection[str]) -> dict[int, CheckpointRecord]:
    """`done_steps`, but for those that lack some of the analyses."""
    return {step: record for step, record in done_steps(run).items() if not lacking(run, step, analyses)}


def read_step(run: Run, step: int) -> StepTables:
    """A done step's tables."""
    tables = {table: read_parquet(table_file(run, table, step)) for table in tables_of(run)}
    return StepTables(**tables, fingerprint=read_fingerprints(run, [step]).get(step, ""))


def read_fingerprints(run: Run, steps: Iterable[int]) -> dict[int, str]:
    """The text of each step's fingerprint, where one is stored."""
    texts = {step: _metadata(table_file(run, TABLES[0], step)).get("fingerprint") for step in steps}
    return {step: text for step, text in texts.items() if text}


def read_table(run: Run, table: str) -> pl.DataFrame:
    """One table over all done steps, ascending; columns that one lacks are null. Raises InputError if none is done."""
    files = [table_file(run, table, step) for step in done_steps(run)]
    if not files:
        raise InputError(f"{run.path} holds no finished step yet")
    return pl.concat([read_parquet(file) for file in files], how="diagonal")


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step="))


def _metadata(file: Path) -> dict[str, str]:
    try:
        return read_metadata(file)
    except (FileNotFoundError, pl.exceptions.PolarsError):
        return {}
