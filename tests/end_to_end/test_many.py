"""Many suites in one command: which they are, where their runs lie, and that one that fails costs only itself."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.hang import HANG
from support.processes import Process
from support.refusal import refusal

from rtdyn.analyses.options import StepOptions
from rtdyn.cli import main
from rtdyn.errors import UsageError
from rtdyn.many import group_of, labels
from rtdyn.store.run import done_steps, read_run
from rtdyn.suites.find import find_suites, load_suites
from rtdyn.suites.steps import parse_steps
from rtdyn.suites.suite import SuiteSpec
from rtdyn.sweep.job import Job
from rtdyn.text.options import EvaluationOptions
from rtdyn.views.wandb.rows import grouping

LAYER = ("--analyses", "heavytail", "--wandb", "disabled")
ABLATION = ("--rare", "0.65:0.95", "--tokens", "8192", "--positions-per-rare", "1", "--wandb", "disabled")
ANALYSED = StepOptions(("ablation",), "kept", "mean_abs", 1e-5, 2.0, "auto", "cpu", 0)


def rtdyn(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def copy_suite(source: Path, folder: Path, *steps: int) -> Path:
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(source / name, folder)
    for step in steps:
        shutil.copytree(source / f"step{step}", folder / f"step{step}")
    return folder


def test_a_suite_named_twice_is_one_and_no_several() -> None:
    suites = load_suites()
    found, several = find_suites(["pythia-14m", "EleutherAI/pythia-14m"], suites)
    assert found == (suites["pythia-14m"],) and not several
    found, several = find_suites(["pythia-31m", "pythia-14m", "pythia-31m"], suites)
    assert [s.name for s in found] == ["pythia-31m", "pythia-14m"] and several


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("pythia-14m-seed*", [f"pythia-14m-seed{k}" for k in range(1, 10)]),
        ("pythia-*-seed[12]", [f"pythia-{s}-seed{k}" for s in ("14m", "31m", "70m", "160m", "410m") for k in (1, 2)]
         + [f"pythia-160m-{w}-seed{k}" for w in ("data", "weight") for k in (1, 2)]),
        ("EleutherAI/pythia-?.?b", ["pythia-1.4b", "pythia-2.8b", "pythia-6.9b"]),
        ("tin?", ["tiny"]),
    ],
)  # fmt: skip
def test_a_pattern_names_every_suite_it_matches(pattern: str, names: list[str]) -> None:
    found, several = find_suites([pattern], load_suites())
    assert [s.name for s in found] == names and several
    again, _ = find_suites([names[-1], pattern], load_suites())
    assert {s.name for s in again} == set(names) and len(again) == len(names)


def test_a_pattern_matches_suites_of_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        'suites: {"mine-{k}": {for: {k: [a, b]}, repo: "me/mine-{k}", revision: "step{step}", schedule: pythia}}'
    )
    assert [s.name for s in find_suites(["mine-*"], load_suites(file))[0]] == ["mine-a", "mine-b"]


def test_a_pattern_of_paths_names_the_folders_that_hold_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("two/ck/step0", "one/ck/step5", "one/notes", "three/ck"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found, several = find_suites(["*/ck"], load_suites())
    assert several and [s.path for s in found] == [tmp_path / "one" / "ck", tmp_path / "two" / "ck"]
    assert labels(found) == ["one-ck", "two-ck"]
    with pytest.raises(UsageError, match=r"none of 1 folder matching .* not of steps"):
        find_suites(["one/ck/step*"], load_suites())
    (tmp_path / "run[1]" / "step0").mkdir(parents=True)
    found, several = find_suites(["run[1]"], load_suites())
    assert found[0].path == tmp_path / "run[1]" and not several


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("pythia-*-sed*", "did you mean pythia-.*seed"), ("nowhere/*", r"no suite or folder matches 'nowhere/\*'")],
)
def test_a_pattern_that_matches_nothing_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_suites([pattern], load_suites())


def test_labels_are_the_names_unless_two_suites_share_one(tiny: SuiteSpec) -> None:
    a, b = (replace(tiny, path=Path(p)) for p in ("/x/tiny", "/y/tiny"))
    pythia = load_suites()["pythia-14m"]
    assert labels([tiny, pythia]) == ["tiny", "pythia-14m"]
    assert labels([a, b, pythia]) == ["x-tiny", "y-tiny", "pythia-14m"]
    assert labels([pythia, replace(a, name="pythia-14m")]) == ["pythia-14m", "x-tiny"]


def test_the_group_is_the_commands(options: EvaluationOptions, tiny: SuiteSpec) -> None:
    suites = load_suites()
    seeds = [suites[f"pythia-14m-seed{k}"] for k in (1, 2)]

    def group(*of: SuiteSpec, analysed: StepOptions = ANALYSED) -> str:
        return group_of([Job(suite, (0,), options, analysed, "mark", 1.0) for suite in of])

    named = group(*seeds)
    assert named.startswith("pythia-14m-")
    assert named == group(*seeds, suites["pythia-14m-seed3"], analysed=replace(ANALYSED, memory_gib=1.0))
    assert named != group(*seeds, analysed=replace(ANALYSED, tolerance=1e-6))
    assert group(*seeds, tiny).startswith("suites-")


@pytest.mark.slow
def test_one_that_fails_costs_only_itself(tiny_folder: Path, tmp_path: Path) -> None:
    good, bad = (copy_suite(tiny_folder, tmp_path / n / "ck", 0, 4000) for n in ("good", "bad"))
    weights = bad / "step4000" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    arguments = ("track", "--model", str(tmp_path / "*" / "ck"), "--model", "tiny", "--model", good)
    arguments = (*arguments, "--steps", "0,4000", "--out", tmp_path / "out", *LAYER)
    result = rtdyn(*arguments)
    assert result.exit_code == 3
    assert refusal(result.stderr).startswith("rtdyn: 1 of 3 suites failed (bad-ck)")
    assert "suite 3 of 3: tiny" in result.stderr and "3 suites, 1 failed" in result.stdout
    table = result.stdout[result.stdout.index("3 suites, 1 failed") :]
    assert "bad-ck failed: " in table and "truncated" in table and "Hill α" in table
    rows = {cells[1].strip(): cells for line in table.splitlines() if len(cells := line.split("│")) > 3}
    assert rows["bad-ck"][2].strip() == "failed"
    assert rows["good-ck"][2:] == rows["tiny"][2:] and rows["tiny"][3].strip() == "4000"
    runs = {path.name: read_run(path) for path in (tmp_path / "out").iterdir()}
    assert {name: list(done_steps(run)) for name, run in runs.items()} == {
        "bad-ck": [0],
        "good-ck": [0, 4000],
        "tiny": [0, 4000],
    }
    assert len({run.manifest.group for run in runs.values()}) == 1

    weights.write_bytes(whole)
    again = rtdyn(*arguments)
    assert again.exit_code == 0, again.stderr
    assert "2 of 2 steps are stored already" in again.stderr and re.search(r"3 suites *\n", again.stdout)
    assert list(done_steps(read_run(tmp_path / "out" / "bad-ck"))) == [0, 4000]


@pytest.mark.slow
def test_one_suite_behaves_as_it_always_did(tiny_folder: Path, tmp_path: Path) -> None:
    given = ("--steps", "0", "--out", tmp_path / "run", "--analyses", "heavytail", "--wandb", "offline")
    result = rtdyn("track", "--model", "tiny", "--model", "tiny", *given)
    assert result.exit_code == 0, result.stderr
    assert "suite 1 of" not in result.stderr and read_run(tmp_path / "run").manifest.group is None
    assert "W&B stopped" not in result.stderr and list((tmp_path / "run" / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_ablation_stands_side_by_side_and_in_one_group(tiny_folder: Path, tmp_path: Path) -> None:
    copy = copy_suite(tiny_folder, tmp_path / "copy", 4000)
    arguments = ("track", "--model", "tiny", "--model", copy, "--steps", "last", "--out", tmp_path / "out")
    result = rtdyn(*arguments, *ABLATION, "--analyses", "ablation", "--corpus", "king-james-held-out")
    assert result.exit_code == 0, result.stderr
    table = result.stdout[result.stdout.rindex("2 suites ") :]
    rows = {cells[1].strip(): cells for line in table.splitlines() if len(cells := line.split("│")) > 3}
    assert rows["tiny"][2:] == rows["copy"][2:] and all(" to " in cell for cell in rows["tiny"][4:7])
    manifests = [read_run(tmp_path / "out" / name).manifest for name in ("tiny", "copy")]
    assert len({grouping(m).group for m in manifests}) == 1
    assert len({grouping(m.replace(group=None)).group for m in manifests}) == 2


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    copy = copy_suite(tiny_folder, tmp_path / "copy", 0)
    arguments = ["track", "--model", copy, "--model", "tiny", "--steps", "0:32", "--out", tmp_path / "out", *LAYER]
    process = Process(["-m", "rtdyn.cli", *arguments])
    first = tmp_path / "out" / "tiny" / "metrics" / "step=000000.parquet"
    deadline = time.monotonic() + HANG
    while not first.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 130 and "the same command goes on" in stderr, stderr
    result = rtdyn(*arguments)
    assert result.exit_code == 0 and "1 of 1 steps are stored already" in result.stderr
    assert len(done_steps(read_run(tmp_path / "out" / "tiny"))) == 7


def test_what_is_wrong_with_the_command_is_said_before_anything_runs(tmp_path: Path) -> None:
    suite = tmp_path / "mine" / "step7"
    suite.mkdir(parents=True)
    given = ("track", "--model", "tiny", "--model", suite.parent, "--out", tmp_path / "out", *LAYER)
    result = rtdyn(*given, "--steps", "4000")
    assert result.exit_code == 2 and "mine: step 4000 is not in the suite's schedule" in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({}))
    result = rtdyn(*given, "--steps", "last")
    assert result.exit_code == 3 and "is a run directory" in result.stderr
    assert rtdyn("track", "--steps", "last").exit_code == 2


def test_the_sentence_on_a_step_is_the_old_one_for_one_suite() -> None:
    with pytest.raises(UsageError, match=r"^step 3 is not"):
        parse_steps("3", (0, 4))
