"""Identical weights at several steps are one observation."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.test_run import manifest, store

from rtdyn.audit.shared_weights import duplicate_steps, steps_left_out
from rtdyn.errors import InputError
from rtdyn.judge.trajectories import trajectories
from rtdyn.store.run import open_run
from rtdyn.suites.find import load_suites
from rtdyn.suites.suite import Defect


def weights(**digests: str) -> dict[int, dict[str, str]]:
    return {int(step[1:]): {"model.safetensors": digest} for step, digest in digests.items()}


def test_shared_weights_belong_to_the_earliest_step_or_the_last() -> None:
    assert duplicate_steps(weights(s0="a", s1="b", s2="c"), 2, ()) == {}
    assert duplicate_steps(weights(s4="a", s8="a", s16="b"), 16, ()) == {8: 4}
    assert duplicate_steps(weights(s4="z", s8="a", s16="z", s32="z"), 32, ()) == {4: 32, 16: 32}


def test_the_registry_decides_where_it_says() -> None:
    known = Defect((0, 1), "duplicate", "", "", belongs_to=0)
    assert duplicate_steps(weights(s0="a", s1="a", s2="b"), 1, (known,)) == {1: 0}
    assert duplicate_steps(weights(s0="a", s1="a", s2="a"), 2, (known,)) == {0: 2, 1: 2}


def test_registered_defects_are_left_out_with_their_source() -> None:
    suite = load_suites()["pythia-2.8b"]
    stored = weights(s0="final", s1="final", s54000="other", s66000="own", s67000="own too", s143000="other")
    reasons = steps_left_out(stored, 143000, suite.defects, {})
    assert list(reasons) == [0, 1, 54000, 143000]
    assert "issues/205" in reasons[0] and "issues/205" in reasons[143000]
    twelve = load_suites()["pythia-12b"].defects
    assert list(steps_left_out(weights(s50000="a", s51000="b"), 143000, twelve, {})) == [50000]
    assert list(steps_left_out(weights(s0="a", s1="a", s2="b"), 143000, load_suites()["pythia-70m"].defects, {})) == [1]


def test_trajectories_leave_repeats_out_and_need_three_steps(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", manifest().replace(left_out={2: "why"}))
    for step in (1, 2, 3):
        store(run, step)
    with pytest.raises(InputError, match="fewer than 3 distinct steps"):
        trajectories(run)
    store(run, 4)
    assert trajectories(run)["step"].unique().to_list() == [1, 3, 4]
