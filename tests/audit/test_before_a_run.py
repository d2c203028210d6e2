"""What a run does about unsound checkpoints: said before it starts, passed over or left out, and recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from loopback.hub import LoopbackHub
from loopback.place import copy_step, workplace
from safetensors.torch import load_file, save_file
from support.tracking import refused, rtdyn

import rtdyn as package
from rtdyn.audit.before_a_run import joined
from rtdyn.judge.observations import read_judged
from rtdyn.judge.trajectories import trajectories
from rtdyn.store.manifest import CheckpointRecord
from rtdyn.store.run import done_steps, read_fingerprints, read_run, table_file
from rtdyn.store.schema import TABLES
from rtdyn.suites.suite import PACKAGE

TINY = PACKAGE / "data" / "tiny"
PLANTED = {0: 0, 1: None, 2: 0, 4: 4, 8: 64, 16: 16, 64: 8, 512: 512}
"""Steps of a suite with the bundled steps whose files they hold: 1 lacks weights, 2 repeats 0, 8 and 64 are swapped."""


@pytest.fixture(scope="module")
def planted(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    suite = tmp_path_factory.mktemp("planted") / "suite"
    for step, source in PLANTED.items():
        folder = suite / f"step{step}"
        shutil.copytree(TINY / f"step{source or 0}", folder)
        if source is None:
            (folder / "model.safetensors").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(TINY / name, suite)
    return suite


def track(suite: Path, out: Path, *arguments: str) -> tuple[str, ...]:
    small = ("--rare", "0.3:0.95", "--tokens", "512", "--window", "32", "--min-targets", "10", "--tolerance", "0.01")
    cheap = ("--positions-per-rare", "1", "--analyses", "ablation", "--wandb", "disabled")
    return ("track", "--model", str(suite), "--out", str(out), *small, *cheap, *arguments)


def test_unsound_steps_are_said_passed_over_or_left_out_and_recorded(planted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = rtdyn(*track(planted, out))
    assert result.exit_code == 0, result.stderr
    run = read_run(out)
    assert list(done_steps(run)) == [s for s, source in PLANTED.items() if source is not None]
    assert list(run.manifest.left_out) == [2, 8, 64]
    assert "same weights as step 0" in run.manifest.left_out[2]
    assert all("its weights" in run.manifest.left_out[step] for step in (8, 64))
    before, after = result.stderr.partition("run directory:")[0], result.stdout
    assert "step 1 is passed over: it holds no weights" in before and "step 2 is not sound" in before
    assert "step 1 was passed over: it holds no weights" in after
    for step in (2, 8, 64):
        assert f"step {step} is kept in the tables and left out of trajectories" in after
    assert trajectories(run)["step"].unique().sort().to_list() == [0, 4, 16, 512]
    audit = run.manifest.audit
    assert audit is not None
    assert {s: v.verdict for s, v in audit.steps.items() if v.verdict != "sound"} == {1: "missing", 2: "duplicate"}
    assert audit.passed_over == {1: "it holds no weights"} and audit.made.startswith("20")
    assert set(read_fingerprints(run, done_steps(run))) == set(done_steps(run))

    again = rtdyn(*track(planted, out, "--steps", "0,2,4"))
    assert again.exit_code == 0 and "3 of 3 steps are stored already" in again.stderr
    assert read_run(out).manifest.left_out == run.manifest.left_out
    assert set(read_run(out).manifest.as_json()["audit"]["steps"]) == set(map(str, PLANTED))

    cut_off = {key: value for key, value in run.manifest.as_json().items() if key != "checkpoints"}
    (out / "manifest.json").write_text(json.dumps({**cut_off, "left_out": {}}))
    assert read_judged(out).manifest.left_out == run.manifest.left_out
    for step in (4, 8, 16, 64, 512):
        for table in TABLES:
            table_file(run, table, step).unlink()
    assert list(package.open_run(out).left_out) == [2]


def test_skip_passes_over_every_unsound_step(planted: Path, tmp_path: Path) -> None:
    result = rtdyn(*track(planted, tmp_path / "run", "--on-defect", "skip", "--steps", "0,1,2,4"))
    assert result.exit_code == 0, result.stderr
    assert list(done_steps(read_run(tmp_path / "run"))) == [0, 4]
    assert "left out of trajectories" not in result.stdout
    assert "step 2 was passed over: it holds the same weights as step 0" in result.stdout


def test_fail_refuses_before_anything_starts(planted: Path, tmp_path: Path) -> None:
    arguments = track(planted, tmp_path / "run", "--on-defect", "fail")
    refused(rtdyn(*arguments), 3, "step 1: it holds no weights", "1 more step not sound", "--on-defect mark")
    assert not (tmp_path / "run").exists()
    refused(rtdyn(*arguments, "--steps", "1,2", "--on-defect", "skip"), 3, "no step asked for of suite is sound")


def test_an_audit_of_other_steps_keeps_what_was_found_before() -> None:
    earlier = {"made": "a", "steps": {"10": {"verdict": "sound"}, "2": {"verdict": "missing"}}, "findings": ["x"]}
    now = {"made": "b", "steps": {"2": {"verdict": "sound"}}, "findings": []}
    found = joined(earlier, now, {})
    assert list(found["steps"]) == ["2", "10"] and found["steps"]["2"] == {"verdict": "sound"}
    assert found["made"] == "b" and joined(None, now, {})["steps"] == now["steps"]
    passed = {"passed_over": {"1": "missing", "2": "missing", "3": "missing"}}
    stored = {3: CheckpointRecord(revision="step3", commit=None, digests={})}
    assert joined({**earlier, **passed}, now, stored)["passed_over"] == {1: "missing"}


@pytest.mark.slow
def test_a_verdict_is_that_of_the_weights_that_were_analysed(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    for step in (2, 8):
        copy_step(step, suite)
    for step in (4, 16):  # with one shard in common
        folder, whole = copy_step(step, suite, weights=False), load_file(TINY / f"step{step}" / "model.safetensors")
        halves = {"a.safetensors": sorted(whole)[::2], "b.safetensors": sorted(whole)[1::2]}
        for name, tensors in halves.items():
            source = whole if name == "a.safetensors" else load_file(TINY / "step4" / "model.safetensors")
            save_file({tensor: source[tensor] for tensor in tensors}, folder / name)
        index = {tensor: name for name, tensors in halves.items() for tensor in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    out = tmp_path / "run"
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        command = ["track", "--model", "broken", "--suites", str(tmp_path / "suites.yaml"), "--out", str(out)]
        command += ["--analyses", "heavytail", "--wandb", "disabled", "--steps"]
        fewer = [*command, "8,16"]
        first, again, skipping = place.track_each([*command, "4,8,16"], fewer, [*fewer, "--on-defect", "skip"])
        for ended in (first, again, skipping):
            assert ended.code == 0, ended.stderr
        before = read_run(out).manifest.left_out
        assert list(before) == [4, 16] and "b.safetensors" in before[16]
        assert "step 4 is kept in the tables and left out" in first.stdout
        assert "step 16 was passed over: it holds in b.safetensors the same bytes as step 4" in skipping.stdout
        hub.branches["step16"], hub.hidden = hub.branches["step2"], {"step4"}
        (moved,) = place.track_each([*command, "2,4,8,16"])
    assert moved.code == 0, moved.stderr
    for step in (4, 16):
        assert f"step {step} is another on the Hub now; its tables and verdict stay" in moved.stderr
    assert "step 8 is another" not in moved.stderr
    assert read_run(out).manifest.left_out == before
    assert list(done_steps(read_run(out))) == [2, 4, 8, 16]
