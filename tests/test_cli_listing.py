"""Commands that say what there is, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from judge.test_domains import of_domain
from judge.test_overview import run_of
from support.refusal import refusal

from rtdyn.cli import main
from rtdyn.store.run import Run, read_run, write_manifest


def rtdyn(*args: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run_of(tmp_path / "whole", (0, 4), (0, 4))
    run = run_of(tmp_path / "half", (0,), (0, 4))
    write_manifest(Run(run.path, run.manifest.replace(failed={4: "its weights are truncated"})))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{}")
    return tmp_path


def test_runs_are_listed_with_their_state(folder: Path) -> None:
    listed = rtdyn("runs", folder)
    assert listed.exit_code == 0 and "bad has store schema None" in listed.stdout
    cells = {line.split("│")[1].strip(): line for line in listed.stdout.splitlines() if line.startswith("│")}
    assert "1 of 2 (0)" in cells["half"] and "incomplete" in cells["half"]
    assert "2 (0 to 4)" in cells["whole"] and "done" in cells["whole"] and "seed 0" in cells["whole"]
    bad, half, whole = json.loads(rtdyn("runs", folder, "--json").stdout)
    assert "schema None" in bad["error"] and whole["steps"] == [0, 4] and whole["state"] == "done"
    assert (half["missing"], half["failed"]) == ([4], {"4": "its weights are truncated"})


def test_a_run_says_which_steps_it_lacks_and_why(folder: Path) -> None:
    shown = rtdyn("show", folder / "half")
    assert shown.exit_code == 0 and "state: incomplete" in shown.stdout
    assert "step 4: not stored; its weights are truncated" in shown.stdout
    assert "tiny, step 0, 1 step stored" in shown.stdout
    assert (
        json.loads(rtdyn("show", folder / "half", "--json").stdout)["config"]
        == read_run(folder / "half").manifest.config
    )
    assert "is not an rtdyn run" in refusal(rtdyn("show", folder / "none").stderr)


def test_runs_that_differ_in_layers_or_domains_are_told_apart(folder: Path) -> None:
    run = read_run(folder / "whole")
    told = run.manifest.replace(config={**run.manifest.config, "layers": "-1,-2"}, domains={"law": of_domain(120)})
    write_manifest(Run(run.path, told))
    listed = rtdyn("runs", folder).stdout
    assert listed.count("domains 1, ") == listed.count("layers -1,-2, seed 0") == 1
    assert "layers: -1,-2" in rtdyn("show", folder / "whole").stdout


def test_where_there_is_no_run_it_is_said(tmp_path: Path) -> None:
    ended = rtdyn("runs", tmp_path)
    assert ended.exit_code == 3 and "holds no run directory" in refusal(ended.stderr)


def test_models_are_listed_by_a_pattern_with_their_sizes() -> None:
    listed = rtdyn("models", "pythia-1*b")
    assert [line.split()[:3] for line in listed.stdout.splitlines()] == [
        ["pythia-1b", "1.0B", "154"], ["pythia-1.4b", "1.4B", "154"], ["pythia-12b", "11.8B", "154"],
    ]  # fmt: skip
    assert max(map(len, rtdyn("models").stdout.splitlines())) <= 80
    [one] = json.loads(rtdyn("models", "EleutherAI/pythia-160m", "--json").stdout)
    assert one["parameters"] == 162_322_944
    ended = rtdyn("models", "pythia-16m")
    assert ended.exit_code == 2 and "did you mean pythia-160m" in refusal(ended.stderr)
