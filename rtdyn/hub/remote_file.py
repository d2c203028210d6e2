"""A file as the Hub describes it, and whether bytes are its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RemoteFile:
    """A file of a revision, as the Hub describes it."""

    name: str
    size: int
    sha256: str | None
    """Of files in LFS."""
    blob_id: str | None
    """Git's SHA-1 of the others."""

    @property
    def etag(self) -> str:
        """The digest that names the content, in the client's cache too."""
        digest = self.sha256 or self.blob_id
        assert digest is not None
        return digest


class Digest:
    """Sums a file's bytes: SHA-256, and Git's blob SHA-1 for a file that the Hub knows by that."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.blob = None if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)

    def update(self, data: bytes) -> None:
        """Takes the next bytes."""
        self.sha256.update(data)
        if self.blob is not None:
            self.blob.update(data)

    @property
    def matches(self) -> bool:
        """Whether the bytes so far are those the Hub describes."""
        return (self.sha256 if self.blob is None else self.blob).hexdigest() == self.file.etag


def digest_of(path: Path, file: RemoteFile) -> Digest:
    """The digest of a file on disk, to be held against what the Hub says of `file`."""
    digest = Digest(file)
    with path.open("rb") as handle:
        while data := handle.read(1 << 20):
            digest.update(data)
    return digest
