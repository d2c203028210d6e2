"""Following a repository to which steps are pushed: branches that come, and half of one first."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from loopback.hub import LoopbackHub
from loopback.place import TINY, TOKENIZER, copy_step, workplace
from polars.testing import assert_frame_equal
from support.hang import HANG
from support.processes import Process

from rtdyn.errors import UsageError
from rtdyn.following.hub import _Source
from rtdyn.following.say_once import SayOnce
from rtdyn.store.run import done_steps, read_run, read_table, table_file
from rtdyn.suites.find import load_suites
from rtdyn.suites.suite import SuiteSpec

WEIGHTS = "model.safetensors"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_names_that_cannot_be_read_for_a_while_end_nothing() -> None:
    said: list[str] = []
    suite = replace(load_suites()["pythia-14m"], steps=(), names={1: "one"})
    readable = iter((False, False, True, False, False))

    def find(pass_over: Callable[[str], None]) -> SuiteSpec:
        if next(readable):
            return suite
        raise UsageError("OWNER/NAME has the branches and tags main, and none looks like a step's")

    say = SayOnce(said.append)
    source = _Source(find, "all", suite, 1.0, False, say, SayOnce(said.append), before={10: "abc", 20: None})
    for _ in range(2):
        assert source.look((20,)) == {10: "abc"}
    assert len(said) == 1 and "are looked at again: OWNER/NAME has the branches" in said[0]
    assert source.look(()) == source.look(()) == source.look(()) == {}
    assert said == [said[0]] * 2  # as it came again


@pytest.mark.slow
def test_steps_are_taken_as_they_are_pushed_and_only_whole(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    for step in (0, 512, 4000):
        copy_step(step, suite)
    for name in TOKENIZER:
        shutil.copy(TINY / name, suite)
    (tmp_path / "place").mkdir()
    out = tmp_path / "place" / "run"
    with LoopbackHub(suite, hidden={"step512", "step4000"}) as hub:
        place = workplace(tmp_path / "place", hub.url)
        follow = ["--follow", "--poll", "0.2", "--until", "4000"]
        command = ["-m", "rtdyn.cli", *place.arguments("run", "on-hub", "all"), *follow]
        process = Process(command, cwd=place.folder, env=place.environment(), merged=True)

        def asked(branch: str) -> int:
            return sum(r.target == branch for r in hub.requests)

        def is_stored(step: int) -> bool:
            assert process.poll() is None
            return (out / "manifest.json").is_file() and table_file(read_run(out), "metrics", step).is_file()

        try:
            until(lambda: is_stored(0))
            whole = hub.branches["step512"]
            hub.branches["step512"] = {name: file for name, file in whole.items() if name != WEIGHTS}
            half = hub.commit("step512")
            hub.hidden.discard("step512")
            until(lambda: asked("step512") >= 3)
            assert not is_stored(512)
            hub.branches["step512"] = whole
            until(lambda: is_stored(512))
            hub.hidden.discard("step4000")
            said, _ = process.communicate(timeout=HANG)
        finally:
            process.kill()
        assert process.returncode == 0, said
        stored = done_steps(read_run(out))
        assert {s: r.commit for s, r in stored.items()} == {s: hub.commit(f"step{s}") for s in (0, 512, 4000)}
        assert half not in {record.commit for record in stored.values()}
        assert said.count("step 512 cannot be had yet: loopback/suite, revision step512 holds no weights") == 1
        assert [line.partition(":")[0] for line in said.splitlines() if line.startswith("[")] == [
            "[1] step 0", "[2] step 512", "[3] step 4000",
        ]  # fmt: skip
        before = len(hub.requests)
        again, plain = place.track_each(
            [*place.arguments("run", "on-hub", "all"), *follow], place.arguments("plain", "on-hub", "all")
        )
        assert (again.code, plain.code) == (0, 0) and "step 4000 is stored already" in again.stdout + again.stderr
        fetched = [r.target for r in hub.requests[before:] if r.target.endswith(WEIGHTS) and r.method == "GET"]
        assert sorted(set(fetched)) == sorted(fetched)  # by the second command alone
    ours, theirs = (read_run(place.folder / name) for name in ("run", "plain"))
    assert theirs.digest == ours.digest
    for table in ("metrics", "neurons", "windows"):
        assert_frame_equal(read_table(ours, table), read_table(theirs, table))
