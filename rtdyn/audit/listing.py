"""What one revision holds by its metadata alone: names, sizes and digests of files, and which of them are weights."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from rtdyn.checkpoints.other_weights import is_adapter, unmerged
from rtdyn.counted import counted
from rtdyn.hub.names import CONFIG, TOKENIZER_FILES
from rtdyn.undefined import Undefined

_FORMATS = (("model", "safetensors"), ("pytorch_model", "bin"))
"""Stem and suffix of each format's files, the one first that is loaded first."""
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-(?P<count>\d+)\.(?P<suffix>safetensors|bin)")


@dataclass(frozen=True)
class FileInfo:
    """A file as its metadata describe it."""

    size: int
    digest: str | None
    """SHA-256 of its content; a Hub gives that of files in LFS, and the git blob's id of others. None: not known."""
    mend: str | None = None
    """If it is a Git LFS pointer in place of the file: how to come by the file."""


@dataclass(frozen=True)
class Listing:
    """A branch of a repository or a folder of a suite."""

    revision: str
    commit: str | None
    files: Mapping[str, FileInfo]
    folders: tuple[str, ...] = ()
    """Of a local folder: those in it, each with a slash at its end. The Hub gives files with their paths."""


@dataclass(frozen=True)
class Weights:
    """One copy of a revision's weights. Digests compare within one layout only."""

    layout: str
    """The format and how it is cut, such as `safetensors` or `bin, 3 shards`."""
    files: Mapping[str, FileInfo]
    index: str | None = None
    """The file that says which shard holds what."""

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
    """Whether a file of this name holds weights, or some of them; optimisers' states are `.bin` files too."""
    return bool(_SHARD.fullmatch(name)) or name.endswith(".safetensors") or name == "pytorch_model.bin"


def weights_in(listing: Listing) -> tuple[Weights, ...]:
    """Every whole copy of the weights, the one that is loaded first."""
    return tuple(copy for copy in _copies(listing) if isinstance(copy, Weights))


def unusable(listing: Listing) -> str | None:
    """Why no model can be loaded from this revision; None if one can, as far as the names tell."""
    copies, names = _copies(listing), {*listing.files, *listing.folders}
    if (why := is_adapter(names)) or (not copies and (why := unmerged(names))):
        return why
    if not copies:
        loose = sorted(f for f in listing.files if _SHARD.fullmatch(f))
        return f"it holds no weights (and no index of {loose[0]})" if loose else "it holds no weights"
    if isinstance(copies[0], Undefined):
        return copies[0].reason
    if CONFIG not in listing.files:
        return f"it holds no {CONFIG}"
    needed = (CONFIG, *TOKENIZER_FILES, copies[0].index, *copies[0].files)
    pointers = [(name, file.mend) for name, file in listing.files.items() if file.mend is not None and name in needed]
    return f"its {pointers[0][0]} is a Git LFS pointer; {pointers[0][1]}" if pointers else None


def _copies(listing: Listing) -> list[Weights | Undefined]:
    """Copies of the weights in the order they are looked for, or what each lacks."""
    copies: list[Weights | Undefined] = []
    for stem, suffix in _FORMATS:
        single = f"{stem}.{suffix}"
        if single in listing.files:
            copies.append(Weights(suffix, {single: listing.files[single]}))
        if f"{single}.index.json" in listing.files:
            copies.append(_shards(listing, suffix, f"{single}.index.json"))
    return copies


def _shards(listing: Listing, suffix: str, index: str) -> Weights | Undefined:
    """The files that an index of this format names, or what they lack; the index itself is not read.

    Shards say in their names how many there are. Those of other names are taken to be whole: only loading can tell.
    """
    numbered: dict[int, list[str]] = defaultdict(list)
    for name in sorted(listing.files):
        if (shard := _SHARD.fullmatch(name)) and shard["suffix"] == suffix:
            numbered[int(shard["count"])].append(name)
    whole = [names for count, names in numbered.items() if len(names) == count]
    loose = [name for name in sorted(listing.files) if name.endswith(f".{suffix}")]
    if not whole and (numbered or not loose):
        count, names = next(iter(numbered.items()), (0, []))
        return Undefined(f"it holds {len(names)} of {count or 'the'} {suffix} shards")
    names = whole[0] if whole else loose
    return Weights(f"{suffix}, {counted(len(names), 'shard')}", {name: listing.files[name] for name in names}, index)
