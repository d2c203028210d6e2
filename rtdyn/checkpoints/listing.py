"""What one revision holds by its metadata alone: names, sizes and digests of files, and which of them are weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rtdyn.checkpoints.checkpoint import CONFIG

_FORMATS = (("model", "safetensors"), ("pytorch_model", "bin"))
"""Stem and suffix of each format's files, the one first that is loaded first."""
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(?P<suffix>safetensors|bin)")


@dataclass(frozen=True)
class FileInfo:
    """A file as its metadata describe it."""

    size: int
    digest: str | None
    """SHA-256 of its content; a Hub gives that of files in LFS, and the git blob's id of others. None: not known."""


@dataclass(frozen=True)
class Listing:
    """A branch of a repository or a folder of a suite."""

    revision: str
    commit: str | None
    files: Mapping[str, FileInfo]


@dataclass(frozen=True)
class Weights:
    """One copy of a revision's weights. Digests compare within one layout only."""

    layout: str
    """The format and how it is cut, such as `safetensors` or `bin, 3 shards`."""
    files: Mapping[str, FileInfo]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def digests(self) -> dict[str, str]:
        """The known digests, by file name."""
        return {name: file.digest for name, file in self.files.items() if file.digest is not None}

    def equals(self, other: Weights) -> bool:
        """Whether both, of one layout, hold the same bytes in every file; never where a digest is not known."""
        return len(self.digests) == len(self.files) and self.digests == other.digests


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights, or some of them."""
    return bool(_SHARD.fullmatch(name)) or name in [f"{stem}.{suffix}" for stem, suffix in _FORMATS]


def weights_in(listing: Listing) -> tuple[Weights, ...]:
    """Every whole copy of the weights, the one that is loaded first."""
    return tuple(found for found in _copies(listing) if isinstance(found, Weights))


def unusable(listing: Listing) -> str | None:
    """Why no model can be loaded from this revision; None if one can, as far as the names tell."""
    copies = _copies(listing)
    if not copies:
        loose = sorted(f for f in listing.files if _SHARD.fullmatch(f))
        return f"it holds no weights (and no index of {loose[0]})" if loose else "it holds no weights"
    if isinstance(copies[0], str):
        return copies[0]
    return None if CONFIG in listing.files else f"it holds no {CONFIG}"


def _copies(listing: Listing) -> list[Weights | str]:
    """Copies of the weights in the order they are looked for, or what each lacks."""
    copies: list[Weights | str] = []
    for stem, suffix in _FORMATS:
        single = f"{stem}.{suffix}"
        if single in listing.files:
            copies.append(Weights(suffix, {single: listing.files[single]}))
        if f"{single}.index.json" in listing.files:
            shards = [f for f in sorted(listing.files) if (m := _SHARD.fullmatch(f)) and m["suffix"] == suffix]
            count = int(shards[0].rpartition("-")[2].partition(".")[0]) if shards else 0
            if shards and len(shards) == count:
                copies.append(Weights(f"{suffix}, {count} shards", {f: listing.files[f] for f in shards}))
            else:
                copies.append(f"it holds {len(shards)} of {count or 'the'} {suffix} shards")
    return copies
