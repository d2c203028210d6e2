"""Named random streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rtdyn
from rtdyn.streams import STREAMS, stream


def test_streams_and_their_parts_are_unlike_each_other() -> None:
    firsts = [stream(0, name, *parts).random() for name in STREAMS for parts in ((), (0,), ("a",), ("b",))]
    assert len(set(firsts)) == len(firsts)


def test_a_stream_is_fixed_by_seed_name_and_part() -> None:
    draws = stream(7, "positions", "common").random(5)
    assert np.array_equal(draws, stream(7, "positions", "common").random(5))
    assert not np.array_equal(draws, stream(8, "positions", "common").random(5))


def test_a_name_that_is_not_listed_is_refused() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        stream(0, "nothing")


def test_all_draws_of_a_run_are_named() -> None:
    package = Path(rtdyn.__file__).parent
    drawing = {f.relative_to(package).as_posix() for f in package.rglob("*.py") if "default_rng(" in f.read_text()}
    # a fingerprint's places are fixed by the matrix alone: they are compared between runs
    assert drawing == {"streams.py", "audit/fingerprint.py"}
