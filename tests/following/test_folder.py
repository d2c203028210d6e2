"""A run that is followed while another process writes its checkpoints: none half-written, none twice."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import transformers
from support import trainer

import rtdyn
from rtdyn.errors import InputError, UsageError
from rtdyn.following.folder import _Source
from rtdyn.following.say_once import SayOnce
from rtdyn.suites.find import find_suite
from rtdyn.suites.folder import folder_suite
from rtdyn.suites.forms import revision_pattern
from rtdyn.suites.suite import SuiteSpec

SMALL: dict[str, Any] = {
    "analyses": "ablation",
    "rare": ["0.3:0.95"],
    "tokens": 600,
    "window": 32,
    "min_targets": 5,
    "positions_per_rare": 1,
    "tolerance": 0.1,
    "wandb": "disabled",
}
SAVES = 50


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, random_neox: Callable[..., transformers.GPTNeoXForCausalLM]) -> Path:
    """An output folder with the tokenizer beside the steps to come, and a small model to save in `tmp_path / model`."""
    folder = tmp_path / "training"
    folder.mkdir()
    shutil.copy(tiny_folder / "tokenizer.json", folder)
    shutil.copy(tiny_folder / "token_counts.npy", folder)
    random_neox(vocab_size=2560, bos_token_id=0, eos_token_id=0).save_pretrained(tmp_path / "model")
    return folder


def write(folder: Path, saves: int, every: float) -> subprocess.Popen[bytes]:
    arguments = [str(folder.parent / "model"), str(folder), str(saves), str(every)]
    return subprocess.Popen([sys.executable, trainer.__file__, *arguments])


@pytest.mark.slow
def test_no_step_is_taken_half_written_none_twice_and_the_last_is_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = write(folder, SAVES, 0.6)
    try:
        run = rtdyn.track(folder, out=tmp_path / "run", follow=True, until=10 * SAVES, idle=120, poll=0.1, **SMALL)
    finally:
        writer.wait()
    assert writer.returncode == 0
    digests = json.loads((tmp_path / "digests.json").read_text())
    assert len(digests) == SAVES and len(run.steps) > 5 and run.steps[-1] == 10 * SAVES
    for step, record in run.manifest.checkpoints.items():
        shards = {name: digest for name, digest in record.digests.items() if name.endswith(".safetensors")}
        assert shards == digests[str(step)]
    said = capsys.readouterr().out
    lines = re.findall(r"^\[\d+\] step (\d+): ", said, re.MULTILINE)
    assert tuple(map(int, lines)) == run.steps  # each once, in their order
    lost = {int(step) for step in re.findall(r"step (\d+) was deleted before", said)}
    assert not lost & set(run.steps) and "passed over" not in said
    assert run.manifest.suite == "training" and run.manifest.location == str(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digests.json", "model", "run", "training"]
    assert run.metrics.select(pl.col("value").is_finite().all()).collect().item()


@pytest.mark.slow
def test_a_followed_run_goes_on_and_equals_one_that_was_tracked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 20):
        trainer.save(tmp_path / "model", folder / f"checkpoint-{step}", step, 0)
    followed = rtdyn.track(folder, out=tmp_path / "run", follow=True, until=20, poll=0.01, **SMALL)
    trainer.save(tmp_path / "model", folder / "checkpoint-30", 30, 0)
    (folder / "checkpoint-40").mkdir()
    shutil.copy(folder / "checkpoint-30" / "config.json", folder / "checkpoint-40")  # what a killed trainer leaves
    followed = rtdyn.track(folder, out=tmp_path / "run", follow=True, idle=0.5, poll=0.01, **SMALL)
    assert followed.steps == (10, 20, 30)
    assert "step 20 is stored already" in capsys.readouterr().out
    tracked = rtdyn.track(folder, steps="10:30", out=tmp_path / "tracked", **SMALL)
    for table in ("metrics", "neurons", "windows"):
        assert getattr(tracked, table).collect().equals(getattr(followed, table).collect())
    assert tracked.manifest.config_digest == followed.manifest.config_digest
    assert {s: c.digests for s, c in tracked.manifest.checkpoints.items()} == {
        s: c.digests for s, c in followed.manifest.checkpoints.items()
    }
    shutil.rmtree(folder / "checkpoint-20")
    trainer.save(tmp_path / "model", folder / "checkpoint-20", 21, 0)
    with pytest.raises(InputError, match="checkpoint-20 is not what step 20 of the run was made from"):
        rtdyn.track(folder, out=tmp_path / "run", follow=True, idle=0.5, poll=0.01, **SMALL)


NAMED = r"(?P<kind>ours)-(?P<step>\w+)"


def test_a_name_that_is_read_wrongly_is_passed_over_and_the_others_are_followed(folder: Path, tmp_path: Path) -> None:
    pattern, said = revision_pattern(NAMED), list[str]()

    def find(pass_over: Callable[[str], None]) -> SuiteSpec:
        return folder_suite(folder, replace(pattern, pass_over=pass_over))

    source = _Source(folder, find, "all", tmp_path / "links", SayOnce(said.append), SayOnce(said.append))
    for name in ("ours-10", "ours-20"):
        (folder / name).mkdir()
    assert set(source.look(())) == {10, 20} and not said
    for name in ("ours-final", "ours-010", "ours-30"):
        (folder / name).mkdir()
    for _ in range(2):
        assert set(source.look(())) == {10, 20, 30} and source.now().revision_of(10) == "ours-10"
    assert said == [
        "a folder is passed over: the pattern finds the step 'final' in 'ours-final'; it must be a whole number",
        "a folder is passed over: the pattern gives 'ours-10' and 'ours-010' one number; narrow it, or name the group "
        "that tells them apart",
    ]
    with pytest.raises(UsageError, match="must be a whole number"):
        folder_suite(folder, pattern)  # as the command's start has it


def test_a_folder_that_is_gone_for_a_while_ends_nothing(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    find = partial(find_suite, str(folder), {})
    source = _Source(
        folder, lambda pass_over: find(), "all", tmp_path / "links", SayOnce(said.append), SayOnce(said.append)
    )
    assert source.look(()) == {} and not said
    trainer.save(tmp_path / "model", folder / "checkpoint-10", 10, 0)
    before = source.look(())
    assert before[10] is not None
    folder.rename(tmp_path / "elsewhere")
    assert source.look(()) == {10: None} and source.look((10,)) == {}
    assert [line.partition(":")[0] for line in said] == ["the folder cannot be read, and is looked at again"]
    (tmp_path / "elsewhere").rename(folder)
    assert source.look(()) == before and len(said) == 1
    folder.rename(tmp_path / "elsewhere")
    assert source.look((10,)) == source.look((10,)) == {} and said == [said[0]] * 2


@pytest.mark.slow
def test_a_wrong_name_that_comes_meanwhile_does_not_end_the_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.save(tmp_path / "model", folder / "ours-10", 10, 0)

    def write() -> None:
        while not (tmp_path / "run" / "metrics").is_dir():
            time.sleep(0.01)
        (folder / "ours-final").mkdir()
        trainer.save(tmp_path / "model", folder / "ours-20", 20, 0)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    options = {"revision_pattern": NAMED, "follow": True, "until": 20, "idle": 60, "poll": 0.05}
    run = rtdyn.track(folder, out=tmp_path / "run", **options, **SMALL)
    writer.join()
    assert run.steps == (10, 20)
    assert capsys.readouterr().out.count("'ours-final'; it must be a whole number") == 1


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"follow": True, "idle": 0.05}, InputError, "no step of .* was whole before the time of --idle was over"),
        ({"follow": True, "steps": "log"}, UsageError, "'log' is known at the end"),
        ({"follow": True, "steps": "ten"}, UsageError, "cannot read 'ten'"),
        ({"follow": True, "executor": "ray"}, UsageError, "leave out --executor"),
        ({"follow": True, "on_defect": "skip"}, UsageError, "leave out --on-defect"),
        ({"follow": True, "on_defect": "fail"}, UsageError, "leave out --on-defect"),
        ({"idle": 5}, UsageError, "--idle is for --follow"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    folder: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        rtdyn.track(folder, out=folder.parent / "run", poll=0.01, **options)
    with pytest.raises(UsageError, match="no suite or folder is called"):
        rtdyn.track(folder / "none", follow=True)
    assert not (folder.parent / "run").exists() and not list(folder.parent.glob(".*"))
