"""Git LFS pointers in place of files, wherever rtdyn opens one: named as what they are, with the way to mend it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from loopback.hub import LoopbackHub
from loopback.place import TINY, copy_step, workplace
from support.tracking import refused, rtdyn

from rtdyn.errors import InputError
from rtdyn.git_lfs import is_pointer
from rtdyn.hub.names import TOKENIZER_FILES
from rtdyn.text.token_counts import read_counts

pytestmark = pytest.mark.slow  # seconds in all: whole commands

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 1807024\n"
SMALL = ("--rare", "0.3:0.95", "--tokens", "512", "--window", "32", "--min-targets", "10", "--positions-per-rare", "1")
CHEAP = (*SMALL, "--tolerance", "0.01", "--analyses", "ablation", "--wandb", "disabled")


@pytest.mark.parametrize(
    "text",
    [
        POINTER,
        POINTER.replace("\n", "\r\n"),
        "\ufeff" + POINTER,
        POINTER.replace("https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1"),
        POINTER.replace("https://git-lfs.github.com/spec/v1", "http://git-media.io/v/2"),
        POINTER.replace("\noid", f"\next-0-case sha256:{'b' * 64}\noid"),
        POINTER.replace("4d7a", "4d7", 3),
        POINTER.partition("\n")[0] + "\n",
    ],
)
def test_every_form_of_a_pointer_is_recognised(text: str) -> None:
    assert is_pointer(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A pointer begins so:\n" + POINTER,
        POINTER.replace("/v1", "/v10"),
        POINTER + "A manual on pointers goes on here.\n" * 40,
        "version https://git-lfs.github.com/spec/v2\n" + POINTER.partition("\n")[2],
    ],
)
def test_what_only_speaks_of_pointers_is_none(text: str) -> None:
    assert not is_pointer(text.encode())


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    for step in (512, 4000):
        copy_step(step, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(TINY / name, folder)
    return folder


def replaced(step: Path, *names: str) -> None:
    (step / "model.safetensors").unlink()
    for name in names:
        (step / name).write_text(POINTER)


WEIGHTS = {
    "safetensors": ("model.safetensors",),
    "bin": ("pytorch_model.bin",),
    "index": ("model.safetensors.index.json", "model-00001-of-00001.safetensors"),
    "shards": ("pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
    "config": ("config.json",),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("analyses", ["ablation", "heavytail"])
def test_a_step_of_pointers_is_missing_to_the_audit_and_passed_over(
    suite: Path, tmp_path: Path, kind: str, analyses: str
) -> None:
    weights = (suite / "step4000" / "model.safetensors").read_bytes()
    for step in (512, 4000):
        replaced(suite / f"step{step}", *WEIGHTS[kind])
        if kind == "config":
            (suite / f"step{step}" / "model.safetensors").write_bytes(weights)
        if kind == "shards":  # the index came, as text does
            index = {"weight_map": {"embed_out.weight": WEIGHTS[kind][1]}}
            (suite / f"step{step}" / WEIGHTS[kind][0]).write_text(json.dumps(index))
    result = rtdyn("audit", "--model", suite, "--json", "--strict")
    assert result.exit_code == 1
    for step in json.loads(result.stdout)["steps"]:
        assert step["verdict"] == "missing" and "Git LFS pointer; run `git lfs pull`" in step["reasons"][0]
    arguments = ("--model", suite, "--out", tmp_path / "run", *CHEAP, "--analyses", analyses)
    refused(rtdyn("track", *arguments), 3, "no step asked for of suite is sound", "pointer; run `git lfs pull`")
    assert not (tmp_path / "run").exists()


def test_a_pointer_beside_a_whole_step_costs_that_step_alone(suite: Path, tmp_path: Path) -> None:
    (suite / "step512" / "model.safetensors").write_text(POINTER)
    result = rtdyn(
        "track", "--model", suite, "--out", tmp_path / "run", "--analyses", "heavytail", "--wandb", "disabled"
    )
    assert result.exit_code == 0, result.stderr
    assert "step 512 was passed over: its model.safetensors is a Git LFS pointer" in result.stdout


def test_a_copy_that_is_not_loaded_may_be_a_pointer(suite: Path) -> None:
    (suite / "step512" / "pytorch_model.bin").write_text(POINTER)
    assert rtdyn("audit", "--model", suite, "--strict").exit_code == 0


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"])
def test_a_tokenizer_that_is_a_pointer_is_refused_and_found(suite: Path, tmp_path: Path, name: str) -> None:
    assert name in TOKENIZER_FILES
    (suite / name).write_text(POINTER)
    refused(rtdyn("track", "--model", suite, "--out", tmp_path / "run", *CHEAP), 3, name, "run `git lfs pull`")
    audited = rtdyn("audit", "--model", suite, "--json", "--strict")
    assert audited.exit_code == 1
    for step in json.loads(audited.stdout)["steps"]:
        assert step["verdict"] == "suspect" and f"the suite's {name} is a Git LFS pointer" in step["reasons"][0]


def test_weights_alone_are_analysed_without_the_tokenizer(suite: Path, tmp_path: Path) -> None:
    (suite / "tokenizer.json").write_text(POINTER)
    run = ("--out", tmp_path / "run", "--analyses", "heavytail", "--wandb", "disabled")
    result = rtdyn("track", "--model", suite, *run)
    assert result.exit_code == 0 and "is not sound: the suite's tokenizer.json" in result.stderr
    assert "left out" not in result.stdout


def test_a_steps_own_tokenizer_that_is_a_pointer_makes_the_step_missing(suite: Path) -> None:
    (suite / "step512" / "tokenizer.json").write_text(POINTER)
    steps = json.loads(rtdyn("audit", "--model", suite, "--json").stdout)["steps"]
    assert [step["verdict"] for step in steps] == ["missing", "sound"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_counts_that_are_a_pointer_are_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"counts{suffix}"
    file.write_text(POINTER)
    with pytest.raises(InputError, match=r"is a Git LFS pointer.*run `git lfs pull`"):
        read_counts(file)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet", ""])
def test_a_corpus_that_is_a_pointer_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"text{suffix}"
    file.write_text(POINTER)
    arguments = ("--model", "tiny", "--steps", "4000", "--out", tmp_path / "run", *CHEAP, "--corpus", file)
    refused(rtdyn("track", *arguments), 3, str(file), "is a Git LFS pointer", "run `git lfs pull`")


OPENED: dict[str, Callable[[Path], list[str | Path]]] = {
    "suites.yaml": lambda file: ["steps", "--model", "tiny", "--suites", file],
    "manifest.json": lambda file: ["claims", file.parent],
}


@pytest.mark.parametrize("name", OPENED)
def test_other_files_that_are_pointers_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    refused(rtdyn(*OPENED[name](tmp_path / name)), 3, name, "run `git lfs pull`")


def test_a_run_whose_tables_are_pointers_is_refused(suite: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = rtdyn("track", "--model", suite, "--out", run, "--analyses", "heavytail", "--wandb", "disabled")
    assert result.exit_code == 0, result.stderr
    baseline = tmp_path / "baseline.json"
    baseline.write_text(POINTER)
    refused(rtdyn("check", run, "--baseline", baseline), 3, "baseline.json", "run `git lfs pull`")
    for table in run.glob("*/*.parquet"):
        table.write_text(POINTER)
    refused(rtdyn("report", run), 3, "run `git lfs pull`")


@pytest.mark.slow
@pytest.mark.parametrize("analyses", ["ablation", "heavytail"])
def test_a_pointer_that_was_uploaded_to_the_hub_is_refused_as_such(tmp_path: Path, analyses: str) -> None:
    suite = tmp_path / "suite"
    for step in (0, 512, 4000):
        copy_step(step, suite)
    (suite / "step512" / "model.safetensors").write_text(POINTER)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, suite)
    with LoopbackHub(suite) as hub:
        place = workplace(tmp_path, hub.url)
        command = place.arguments("run", "on-hub", "512")
        hub.branches["step0"] = {  # as git has a file that LFS does not know of
            name: replace(file, sha256=None) for name, file in hub.branches["step512"].items()
        }
        audit = ["audit", "--model", "on-hub", "--json", "--suites", str(tmp_path / "suites.yaml")]
        ended, audited = place.track_each([*command, "--analyses", analyses], audit)
    verdicts = {step["step"]: step for step in json.loads(audited.stdout)["steps"]}
    assert verdicts[0]["verdict"] == "missing" and "its owner has to upload" in verdicts[0]["reasons"][0]
    assert verdicts[4000]["verdict"] == "sound"
    assert ended.code == 3 and "is a Git LFS pointer" in ended.stderr and "its owner has to upload" in ended.stderr
    assert "git lfs pull" not in ended.stderr
