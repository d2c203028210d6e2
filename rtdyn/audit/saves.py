"""Whether a step's weight files are of one save, by what lies beside their numbers: headers, index and times."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rtdyn.audit.listing import Weights
from rtdyn.blame import disk_fault, reading
from rtdyn.checkpoints.checkpoint import read_json, weight_files
from rtdyn.checkpoints.safetensors_files import Header, read_header
from rtdyn.checkpoints.shards import contradiction
from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.hub.names import CONFIG

H = TypeVar("H", bound=Hashable)


@dataclass(frozen=True)
class Save:
    """One step's weights, without their numbers."""

    damage: str | None
    """Why a header, the index or config.json cannot be read."""
    contradiction: str | None
    """How headers and index contradict each other."""
    differing: frozenset[str]
    """Keys of the headers' own metadata that have several values."""
    excess: int
    """Bytes that the index gives beyond those of the tensors; 0 where it gives none."""
    written: tuple[float, float]
    """When the first and the last file was written, in seconds."""


def save_in(folder: Path, weights: Weights) -> Save:
    """What the headers, the index and the times of a step's weight files say.

    Raises InputError if a disk keeps them from being read.
    """
    with reading(str(folder)):
        names = {file.name for file in folder.iterdir()}
        times = [(folder / name).stat().st_mtime for name in weights.files]
    written = (min(times), max(times))
    headers: dict[str, Header] = {}
    try:
        read_json(folder / CONFIG)
        weight_files(names, lambda name: read_json(folder / name), str(folder))
        for name in weights.files:
            if name.endswith(".safetensors"):
                headers[name] = read_header(folder / name)
        index = read_json(folder / weights.index) if weights.index is not None else {}
    except InputError as error:
        if disk_fault(error) is not None:
            raise
        return Save(str(error), None, frozenset(), 0, written)
    weight_map, metadata = index.get("weight_map"), index.get("metadata")
    told = (
        contradiction(weight_map, {n: h.tensors for n, h in headers.items()}) if isinstance(weight_map, dict) else None
    )
    values = {key: {h.metadata.get(key) for h in headers.values()} for h in headers.values() for key in h.metadata}
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    excess = total - sum(header.bytes for header in headers.values()) if headers and isinstance(total, int) else 0
    return Save(None, told, frozenset(key for key, seen in values.items() if len(seen) > 1), excess, written)


def doubts(saves: Mapping[int, Save]) -> dict[int, dict[str, str]]:
    """By step: the kinds of faults that speak for two saves, or none whole, each with the reason.

    What most steps have alike, such as an index that counts bytes in another way, is the habit of what saved them.
    """
    found: dict[int, dict[str, str]] = {step: {} for step in saves}
    for step, save in saves.items():
        if save.damage is not None:
            found[step]["damaged"] = save.damage
        if save.contradiction is not None:
            found[step]["shards"] = f"it is put together from two saves: {save.contradiction}"
    for step in _unlike({step: save.differing for step, save in saves.items()}, frozenset()):
        keys = ", ".join(sorted(saves[step].differing))
        found[step]["shards"] = f"its shards are not of one save: their metadata differ in {keys}"
    for step in _unlike({step: save.excess for step, save in saves.items()}, 0):
        more = "more" if saves[step].excess > 0 else "less"
        size = abs(saves[step].excess)
        found[step]["shards"] = (
            f"its index is another save's: it gives {counted(size, 'byte')} {more} than the shards hold"
        )
    around = _written_around_another({step: save.written for step, save in saves.items()})
    if around is not None:
        first, last = saves[around].written
        found[around]["times"] = (
            f"its shards were written {last - first:,.0f} s apart, with all of another step between them; "
            "they may be of two saves"
        )
    return found


def _unlike(habits: Mapping[int, H], clean: H) -> list[int]:
    """The steps that have neither what most have nor the clean value."""
    usual, count = Counter(habits.values()).most_common(1)[0] if habits else (clean, 0)
    allowed = {clean, usual} if count > max(1, len(habits) / 2) else {clean}
    return [step for step, habit in habits.items() if habit not in allowed]


def _written_around_another(written: Mapping[int, tuple[float, float]]) -> int | None:
    """The one step whose files were written before and after all of another, where the others came step by step."""
    around = [
        step
        for step, (first, last) in written.items()
        if any(first < begun and ended < last for begun, ended in written.values())
    ]
    others = [times for step, times in sorted(written.items()) if step not in around]
    by_step = all(earlier[1] < later[0] for earlier, later in itertools.pairwise(others))
    return around[0] if len(around) == 1 and len(others) > 1 and by_step else None
