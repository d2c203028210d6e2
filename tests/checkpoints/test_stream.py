"""The stream from a Hub: ahead of the analyses, within its budget, behind itself clean, and never with a wrong byte."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from click.testing import CliRunner
from loopback.hub import Fault, LoopbackHub
from loopback.place import TINY, TOKENIZER, Machine, copy_step, files_of, workplace
from polars.testing import assert_frame_equal
from safetensors.torch import load_file, save_file
from support.hang import HANG
from support.processes import run_python

from rtdyn.cli import main
from rtdyn.store.run import done_steps, read_run, read_table
from rtdyn.store.schema import TABLES

ROOT = Path(__file__).parents[2]
WEIGHTS = "model.safetensors"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five branches: 2 repeats 1, 4 repeats 1 with another note in its config, 512 is an old `.bin`."""
    suite = tmp_path_factory.mktemp("suite")
    for name in TOKENIZER:
        shutil.copy(TINY / name, suite)
    copy_step(1, suite)
    for step in (2, 4):
        shutil.copy(TINY / "step1" / WEIGHTS, copy_step(step, suite, weights=False))
    config = json.loads((suite / "step4" / "config.json").read_text())
    (suite / "step4" / "config.json").write_text(json.dumps({**config, "transformers_version": "4.0"}))
    copy_step(8, suite)
    old = copy_step(512, suite, weights=False)
    torch.save(load_file(TINY / "step512" / WEIGHTS), old / "pytorch_model.bin")
    return suite


def size(step: int) -> int:
    return (TINY / f"step{step}" / WEIGHTS).stat().st_size


def until(condition: Callable[[], bool], seconds: float = HANG) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_whole(outcome: dict[str, Any], steps: list[int]) -> None:
    assert outcome["refusal"] is None
    assert list(map(int, outcome["steps"])) == steps
    for step, got in outcome["steps"].items():
        name = "pytorch_model.bin" if step == "512" else WEIGHTS
        assert got["digests"] == {name: got["files"][name]}


def test_the_disk_stays_within_its_budget_and_is_empty_afterwards(suite: Path, tmp_path: Path) -> None:
    budget = size(1) + size(8) + 10_000
    with LoopbackHub(suite, bandwidth=4e6) as hub:
        place = workplace(tmp_path, hub.url)
        process = place.start_sweep("broken", [1, 8, 512], cache_gb=budget / 1e9, linger=1.0)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(files_of(place).values()))
            time.sleep(0.005)
        out, err = process.communicate()
        assert process.returncode == 0, err
        (outcome,) = json.loads(out)
        (alone,) = place.sweep("broken", [1, 8], cache_gb=0)
    assert_whole(outcome, [1, 8, 512])
    assert max(size(1), size(8)) < peak <= budget
    assert sum(files_of(place).values()) == 0
    assert any(text.startswith("downloading step 1:") and text.endswith(" MB") for text in outcome["told"])
    assert_whole(alone, [1, 8])
    assert "one checkpoint at a time" in alone["said"][0]


def test_the_next_checkpoint_is_on_its_way_before_the_first_is_done(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        outcomes = workplace(tmp_path, hub.url).sweep("broken", [1, 8], hold=True)
    assert outcomes[0]["ahead"] == {"1": True, "8": True}


def test_the_first_steps_stay_for_a_run_that_comes_next_as_far_as_half_of_the_budget_goes(
    suite: Path, tmp_path: Path
) -> None:
    steps, cache = [1, 8, 512], 2 * size(1) + 2 * size(8) + 100_000

    def asked(hub: LoopbackHub) -> list[str]:
        return [r.target for r in hub.requests if r.target.endswith((WEIGHTS, ".bin"))]

    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        (first,) = place.sweep("broken", steps, cache_gb=cache / 1e9, keep=True)
        stayed = sorted(filter(None, files_of(place).values()))
        before = len(asked(hub))
        (second,) = place.sweep("broken", steps, cache_gb=cache / 1e9)
        again = asked(hub)[before:]
    assert_whole(first, steps)
    assert_whole(second, steps)
    assert stayed == sorted([size(1), size(8)]) and "stay in" in first["said"][-1]
    assert set(again) == {"step512/pytorch_model.bin"}
    assert sum(files_of(place).values()) == 0


def test_a_disk_too_small_is_said_before_anything_is_downloaded(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        huge = dataclasses.replace(hub.branches["step8"][WEIGHTS], size=10**17)
        hub.branches["step8"][WEIGHTS] = huge
        (outcome,) = place.sweep("broken", [1, 8])
        sent = [r for r in hub.requests if r.target.endswith(WEIGHTS)]
    assert outcome["refusal"].startswith("step 8 takes 100,000,000.00 GB and ")
    assert "make room there, or set HF_HOME" in outcome["refusal"]
    assert not sent


def test_a_killed_download_is_gone_on_with_and_what_is_of_no_use_is_cleared(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite, bandwidth=1.5e6) as hub:
        place = workplace(tmp_path, hub.url)
        process = place.start_sweep("broken", [1, 512])
        until(lambda: any(p.suffix == ".part" and s > 500_000 for p, s in files_of(place).items()))
        process.kill()
        process.communicate()
        (part,) = (path for path in files_of(place) if path.suffix == ".part")
        had = part.stat().st_size
        hub.bandwidth = None
        hub.misbehave()
        (outcome,) = place.sweep("broken", [1, 512])
        (asked,) = (r.range for r in hub.requests if r.target == f"step1/{WEIGHTS}")
        part.parent.mkdir()
        part.write_bytes(bytes(1000))  # wrong, and of a step that comes again
        part.with_name("0" * 64).write_bytes(b"of no step")
        (again,) = place.sweep("broken", [1, 512])
    assert had > 500_000
    assert asked == f"bytes={had}-{size(1) - 1}"
    for one in (outcome, again):
        assert_whole(one, [1, 512])
    assert sum(files_of(place).values()) == 0


def test_files_of_the_user_are_used_and_stay_whatever_shares_them(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        place.cache("step4")
        before = place.files_in_cache()
        hub.misbehave()
        (outcome,) = place.sweep("broken", [1, 8])
        sent = {r.target for r in hub.requests if r.target.endswith(WEIGHTS)}
    assert_whole(outcome, [1, 8])
    assert sent == {f"step8/{WEIGHTS}"}
    assert place.files_in_cache() == before


def test_equal_weights_are_fetched_and_analysed_once_and_stored_for_each_step(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        first, both = (place.arguments("run", "broken", steps) for steps in ("2,8", "1,2,4,8"))
        apart = place.arguments("apart", "broken", "1")
        ended = place.track_each(first, both, apart)
        assert [end.code for end in ended] == [0, 0, 0], ended
        sent = [r.target for r in hub.requests if r.method == "GET" and r.target.endswith(WEIGHTS)]
        commits = {step: hub.commit(f"step{step}") for step in (1, 2, 4)}
    assert sent == [f"step2/{WEIGHTS}", f"step8/{WEIGHTS}", f"step1/{WEIGHTS}"]
    run = read_run(tmp_path / "run")
    records = done_steps(run)
    assert {step: records[step].commit for step in (1, 2, 4)} == commits
    assert {step: records[step].copy_of for step in (1, 2, 4, 8)} == {1: 2, 2: None, 4: 2, 8: None}
    assert records[1].digests == records[2].digests == records[4].digests
    assert list(run.manifest.left_out) == [2, 4]
    for table in TABLES:
        copied = read_table(run, table).filter(pl.col("step") == 1)
        assert_frame_equal(copied, read_table(read_run(tmp_path / "apart"), table))


def test_another_config_is_another_model_though_the_weights_are_the_same(suite: Path, tmp_path: Path) -> None:
    changed = tmp_path / "suite"
    shutil.copytree(suite, changed)
    config = json.loads((changed / "step2" / "config.json").read_text())
    (changed / "step2" / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    with LoopbackHub(changed) as hub:
        (outcome,) = workplace(tmp_path, hub.url).sweep("broken", [1, 2, 4])
    assert outcome["repeats"] == {"1": [4]}
    assert_whole(outcome, [1, 2])


def test_weights_alone_are_read_by_ranges_and_give_the_numbers_of_whole_files(suite: Path, tmp_path: Path) -> None:
    local, weights = tmp_path / "local", ("--analyses", "heavytail", "--wandb", "disabled")
    shutil.copytree(suite, local)
    sharded = copy_step(16, local, weights=False)
    whole = load_file(TINY / "step16" / WEIGHTS)
    halves = {"a.safetensors": sorted(whole)[::2], "b.safetensors": sorted(whole)[1::2]}
    for name, tensors in halves.items():
        save_file({f"module.{tensor}": whole[tensor] for tensor in tensors}, sharded / name)
    index = {f"module.{tensor}": name for name, tensors in halves.items() for tensor in tensors}
    (sharded / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    with LoopbackHub(local, cdn=True) as hub:
        place = workplace(tmp_path, hub.url)
        hub.faults = [
            Fault("GET cdn/step16/a.safetensors", cut_after=100),
            Fault("GET step16/b.safetensors", status=500),
        ]
        command = ["track", "--model", "broken", "--suites", str(tmp_path / "suites.yaml"), *weights]
        (ended,) = place.track_each([*command, "--steps", "1,2,16,512", "--out", str(tmp_path / "remote")])
        assert ended.code == 0, ended.stderr
        ranges = [r.range for r in hub.requests if r.target == f"cdn/step1/{WEIGHTS}"]
        assert not [r for r in hub.requests if "tokenizer" in r.target]
    asked = sum(int(b) - int(a) + 1 for a, b in (r.removeprefix("bytes=").split("-") for r in ranges if r))
    mlp = [whole[f"gpt_neox.layers.2.mlp.{name}.weight"] for name in ("dense_h_to_4h", "dense_4h_to_h")]
    assert sum(t.nbytes for t in mlp) < asked < sum(t.nbytes for t in mlp) + 10_000 < size(1) / 3
    assert sum(files_of(place).values()) == 0
    arguments = ["track", "--model", str(local), *weights, "--steps", "1,2,16,512", "--out", str(tmp_path / "here")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    remote, here = read_run(tmp_path / "remote"), read_run(tmp_path / "here")
    for table in TABLES:
        ours, theirs = (read_table(run, table).drop("tokens_seen", strict=False) for run in (remote, here))
        assert_frame_equal(ours, theirs)
    records = done_steps(remote)
    assert [records[s].read_by_ranges for s in (1, 2, 16, 512)] == [True, True, True, False]
    for step, record in done_steps(here).items():
        assert records[step].digests == record.digests
    metrics = read_table(here, "metrics")
    assert {"hill_alpha_tenth", "ww_alpha_in", "ww_alpha_out"} <= set(metrics["metric"])
    assert metrics.filter(pl.col("metric") == "hill_alpha_tenth")["ci_low"].null_count() == 0


@pytest.mark.parametrize("level", [("stream", "12"), ("track", "2")], ids=lambda level: level[0])
def test_runs_under_random_faults_end_whole_or_in_a_sentence(level: tuple[str, str]) -> None:
    arguments = ("scripts/trials/fault_schedules.py", "--level", level[0], "--n", level[1], "--seed", "7", "--json")
    done = run_python(arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == [] and found["faults met"] >= 1
    assert found["whole at once"] + found["refused, then whole"] == int(level[1])


def test_sound_steps_beside_random_faults_of_a_folder_have_the_tables_of_a_clean_run() -> None:
    arguments = ("scripts/trials/fault_schedules.py", "--level", "folder", "--n", "6", "--seed", "7", "--json")
    done = run_python(arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=HANG)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == [] and sum(found["ended"].values()) == 6 and len(found["faults"]) >= 3


def test_the_loopback_hub_answers_the_client_as_a_hub_does(suite: Path, tmp_path: Path) -> None:
    asks = """
import json
from huggingface_hub import HfApi
api = HfApi()
refs = {b.name: b.target_commit for b in api.list_repo_refs("loopback/suite").branches}
listed = api.list_repo_tree("loopback/suite", revision="step1")
tree = {f.path: [f.size, f.lfs.sha256 if f.lfs else f.blob_id] for f in listed}
print(json.dumps([refs, tree]))
"""
    with LoopbackHub(suite, hidden={"step8"}) as hub:
        done = workplace(tmp_path, hub.url).python(["-c", asks])
        assert done.returncode == 0, done.stderr
        refs, tree = json.loads(done.stdout)
        assert refs == {name: hub.commit(name) for name in ("main", "step1", "step2", "step4", "step512")}
    weights = suite / "step1" / WEIGHTS
    assert tree[WEIGHTS] == [weights.stat().st_size, hashlib.sha256(weights.read_bytes()).hexdigest()]


def test_two_runs_over_one_repository_keep_to_places_of_their_own(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite, bandwidth=2e6) as hub:
        place: Machine = workplace(tmp_path, hub.url)
        first = place.start_sweep("broken", [1, 8])
        until(lambda: bool(files_of(place)) and any(p.parent.name == "loopback--suite" for p in files_of(place)))
        (outcome,) = place.sweep("broken", [1, 8])
        out, err = first.communicate()
    assert first.returncode == 0, err
    assert_whole(outcome, [1, 8])
    assert_whole(json.loads(out)[0], [1, 8])
    assert sum(files_of(place).values()) == 0


def test_files_without_published_digests_are_read_whole_and_told_apart(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        for step in (1, 8):
            published = hub.branches[f"step{step}"]
            published[WEIGHTS] = dataclasses.replace(published[WEIGHTS], sha256=None)
        (outcome,) = workplace(tmp_path, hub.url).sweep("broken", [1, 8], weights_only=True)
    assert_whole(outcome, [1, 8])
    assert outcome["steps"]["1"]["digests"] != outcome["steps"]["8"]["digests"]


def test_ctrl_c_ends_a_wait_for_a_busy_hub(suite: Path, tmp_path: Path) -> None:
    with LoopbackHub(suite) as hub:
        hub.faults = [Fault("GET step8", status=429, retry_after=300)]
        process = workplace(tmp_path, hub.url).start_sweep("broken", [1, 8])
        until(lambda: any(r.target == "step8" for r in hub.requests))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANG)
    assert "KeyboardInterrupt" in err
