"""Random streams: every draw of a run has one of its own, so that no two draws repeat each other's numbers."""

from __future__ import annotations

from zlib import crc32

import numpy as np

STREAMS = (
    "documents",
    "stretches of a data set",
    "stretches to count",
    "positions",
    "pseudo-classes",
    "shape nulls",
    "resampled text",
    "null sets",
    "communities",
    "rewired graphs",
    "attention",
    "pools",
    "sampled counts drawn anew",
    "permuted activations",
    "earlier layers",
    "stretches of domains",
)
"""A stream's place is part of its seed: new ones go to the end, and none is taken out."""


def stream(seed: int, name: str, *parts: int | str) -> np.random.Generator:
    """The generator of one kind of draw, by its name in STREAMS, and of one part of it, as a class or a group.

    Streams of a seed are independent (numpy's spawn keys). Raises ValueError for a name that is not in STREAMS.
    """
    key = (STREAMS.index(name), *(crc32(part.encode()) if isinstance(part, str) else part for part in parts))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
