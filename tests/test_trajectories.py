"""Identical weights at several steps are one observation."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_store import manifest, store

from rtdyn.errors import InputError
from rtdyn.registry import Defect
from rtdyn.store import open_run
from rtdyn.trajectories import duplicate_steps, trajectories


def records(**digests: str) -> dict[int, dict[str, object]]:
    return {int(step[1:]): {"digests": {"model.safetensors": d}} for step, d in digests.items()}


def test_shared_weights_belong_to_the_earliest_step_or_the_last() -> None:
    assert duplicate_steps(records(s0="a", s1="b", s2="c"), 2, ()) == {}
    assert duplicate_steps(records(s4="a", s8="a", s16="b"), 16, ()) == {8: 4}
    assert duplicate_steps(records(s4="z", s8="a", s16="z", s32="z"), 32, ()) == {4: 32, 16: 32}


def test_the_registry_decides_where_it_says() -> None:
    known = Defect((0, 1), "duplicate", "", "", belongs_to=0)
    assert duplicate_steps(records(s0="a", s1="a", s2="b"), 1, (known,)) == {1: 0}
    assert duplicate_steps(records(s0="a", s1="a", s2="a"), 2, (known,)) == {0: 2, 1: 2}


def test_trajectories_leave_repeats_out_and_need_three_steps(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", {**manifest(), "duplicates": {"2": 1}})
    for step in (1, 2, 3):
        store(run, step)
    with pytest.raises(InputError, match="fewer than 3 distinct steps"):
        trajectories(run)
    store(run, 4)
    assert trajectories(run)["step"].unique().to_list() == [1, 3, 4]
