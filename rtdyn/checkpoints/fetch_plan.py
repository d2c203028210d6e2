"""What a sweep has to fetch of each step, known from metadata and small files before any weights move."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rtdyn.checkpoints.checkpoint import weight_files
from rtdyn.checkpoints.tensors import TensorRange, mlp_tensors, remote_tensors
from rtdyn.errors import InputError, json_fault
from rtdyn.git_lfs import LONGEST, UPLOADED_SO, is_pointer, pointer_error
from rtdyn.hub.download import read_small
from rtdyn.hub.names import CONFIG
from rtdyn.hub.ranges import Transfer
from rtdyn.hub.remote_file import RemoteFile
from rtdyn.hub.repository import Revision, check_cached, checked, in_cache, revision_at
from rtdyn.hub.retry import each_answer
from rtdyn.model.final_mlp import final_mlp
from rtdyn.model.stored_names import stored_name
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.suites.suite import SuiteSpec

_PROVENANCE = ("_name_or_path", "transformers_version")
"""Settings of a config.json that say where it came from and do not change the model."""


@dataclass(frozen=True)
class StepPlan:
    """A step's files on the Hub, of which the small ones are here already."""

    step: int
    name: str
    """What the suite calls the step's revision."""
    revision: Revision
    small: Mapping[str, bytes]
    """config.json, and the index of sharded weights."""
    weights: tuple[RemoteFile, ...]
    tensors: tuple[TensorRange, ...] = ()
    """Those to read by ranges instead of whole files, if any."""
    disk_bytes: Mapping[str, int] = field(default_factory=dict)
    """What it will take on the disk: bytes by digest, and of the step's folder."""

    @property
    def folder(self) -> str:
        """The step's folder in the scratch space."""
        return f"step-{self.step}"

    @property
    def bytes(self) -> int:
        """All of `disk_bytes`."""
        return sum(self.disk_bytes.values())

    def digests(self) -> dict[str, str] | None:
        """SHA-256 of each weight file as far as metadata tell, None if one is not in LFS."""
        published = {file.name: file.sha256 for file in self.weights if file.sha256}
        index = {name: hashlib.sha256(data).hexdigest() for name, data in self.small.items() if name != CONFIG}
        return {**published, **index} if len(published) == len(self.weights) else None

    def model(self) -> tuple[Any, ...]:
        """What the analyses see: equal for two steps that give the same tables."""
        config = json.loads(self.small[CONFIG])
        settings = json.dumps({k: v for k, v in config.items() if k not in _PROVENANCE}, sort_keys=True)
        index = [(name, data) for name, data in self.small.items() if name != CONFIG]
        return settings, tuple((file.name, file.etag) for file in self.weights), tuple(index)


@dataclass(frozen=True)
class Repeat:
    """A step whose weights are those of another: its tables are that one's."""

    step: int
    revision: str
    commit: str


@dataclass(frozen=True)
class SweepPlan:
    """What to fetch, in order, and which steps need not be."""

    steps: tuple[StepPlan | InputError, ...]
    """Ascending as asked, an error where the step cannot be had."""
    numbers: tuple[int, ...]
    """The step of each."""
    repeats: Mapping[int, tuple[Repeat, ...]]
    """By the step they repeat, which may be stored already."""


def plan_sweep(
    suite: SuiteSpec,
    steps: Sequence[int],
    stored: Mapping[int, CheckpointRecord],
    weights_only: bool,
    transfer: Transfer,
) -> SweepPlan:
    """Asks the Hub what each step consists of. stored: records of the steps that are done."""
    small: dict[str, bytes] = {}

    def planned(step: int) -> StepPlan | InputError:
        try:
            return _plan(suite, step, weights_only, small, transfer)
        except InputError as error:
            return error

    # the first alone, so that small files that all have in common are asked for once
    plans = dict(zip(steps, [*map(planned, steps[:1]), *each_answer(planned, steps[1:], transfer.stop)], strict=True))
    known = [p.digests() for p in plans.values() if isinstance(p, StepPlan)]
    alike = [s for s, record in stored.items() if s in suite.steps and record.digests in known]
    done = {
        s: p for s, p in zip(alike, each_answer(planned, alike, transfer.stop), strict=True) if isinstance(p, StepPlan)
    }
    owner = {plan.model(): step for step, plan in done.items() if plan.digests() == stored[step].digests}
    repeats: dict[int, list[Repeat]] = {}
    fetched: dict[int, StepPlan | InputError] = {}
    for step, plan in plans.items():
        if isinstance(plan, StepPlan) and plan.model() in owner:
            repeat = Repeat(step, plan.name, plan.revision.commit)
            repeats.setdefault(owner[plan.model()], []).append(repeat)
            continue
        if isinstance(plan, StepPlan):
            owner[plan.model()] = step
        fetched[step] = plan
    return SweepPlan(tuple(fetched.values()), tuple(fetched), {s: tuple(r) for s, r in repeats.items()})


def _plan(suite: SuiteSpec, step: int, weights_only: bool, small: dict[str, bytes], transfer: Transfer) -> StepPlan:
    revision = revision_at(suite.place_of(step), transfer.pause)

    def content(name: str) -> bytes:
        file = checked(revision, name)
        if file.etag not in small:
            cached = in_cache(revision, file)
            if cached is not None:
                check_cached(cached, revision, file)
            small[file.etag] = read_small(revision, file, transfer) if cached is None else cached.read_bytes()
        if is_pointer(small[file.etag]):
            raise pointer_error(f"{revision.what}: {name}", UPLOADED_SO)
        return small[file.etag]

    def parsed(name: str) -> dict[str, Any]:
        try:
            data = json.loads(content(name))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{revision.what}: {name} is not readable JSON ({json_fault(error)}); leave the step out"
            ) from None
        if not isinstance(data, dict):
            raise InputError(f"{revision.what}: {name} does not hold a JSON object; leave the step out")
        return data

    names = weight_files(set(revision.files), parsed, revision.what)
    config = parsed(CONFIG)
    texts = {name: content(name) for name in (CONFIG, *names) if name.endswith(".json")}
    files = tuple(checked(revision, name) for name in names if not name.endswith(".json"))
    for file in files:
        if file.size < LONGEST:
            content(file.name)
    mlp = final_mlp(config, revision.what)
    absent = [file for file in files if in_cache(revision, file) is None]
    disk_bytes = {file.etag: file.size for file in absent}
    tensors: tuple[TensorRange, ...] = ()
    # without published digests a step could not be told from another once its ranges are read
    if weights_only and absent and absent[0].name.endswith(".safetensors") and all(file.sha256 for file in files):
        holding = _holding(mlp_tensors(mlp), files, names, parsed, revision.what)
        tensors = remote_tensors(revision, holding, mlp_tensors(mlp), transfer)
        disk_bytes = {}
    folder = sum(map(len, texts.values())) + sum(t.stop - t.start for t in tensors)
    plan = StepPlan(step, suite.revision_of(step), revision, texts, files, tensors)
    return replace(plan, disk_bytes={**disk_bytes, plan.folder: folder})


def _holding(
    wanted: Sequence[str], files: Sequence[RemoteFile], names: Sequence[str], parsed: Any, where: str
) -> Sequence[RemoteFile]:
    """The shards that the index says hold the wanted tensors; all files where there is no index."""
    if not names[0].endswith(".json"):
        return files
    weight_map = parsed(names[0])["weight_map"]
    shards = {weight_map[stored_name(t, weight_map.keys(), where)] for t in wanted}
    return [file for file in files if file.name in shards]
