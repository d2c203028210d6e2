"""JSON that Python's reader chokes on, wherever rtdyn reads some: numbers of 5,000 digits, and 10,000 levels."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback.place import TINY, copy_step
from support.tracking import refused, rtdyn

from rtdyn.text.documents import read_documents

pytestmark = pytest.mark.slow  # seconds in all: whole commands

LONG = "9" * 5000
DEEP = "[" * 10_000 + "]" * 10_000
ODD = {"long": (LONG, "digits"), "deep": (DEEP, "nested too deeply")}
CHEAP = ("--analyses", "ablation", "--wandb", "disabled", "--tokens", "2048", "--min-targets", "5")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    copy_step(4000, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(TINY / name, folder)
    return folder


def add(file: Path, value: str) -> None:
    """Adds a key to a JSON object."""
    file.write_text(f'{file.read_text().rstrip().removesuffix("}")}, "odd": {value}}}')


def in_index(step: Path, value: str) -> None:
    (step / "model.safetensors").rename(step / "model-00001-of-00001.safetensors")
    file = step / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"embed_out.weight": "model-00001-of-00001.safetensors"}}))
    add(file, value)


def in_header(step: Path, value: str) -> None:
    file = step / "model.safetensors"
    data = file.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = f'{data[8:end].decode().rstrip().removesuffix("}")}, "odd": {value}}}'.encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + data[end:])


OF_A_STEP: dict[str, Callable[[Path, str], None]] = {
    "config.json": lambda step, value: add(step / "config.json", value),
    "model.safetensors.index.json": in_index,
    "model.safetensors": in_header,
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", OF_A_STEP)
def test_a_steps_files_are_named_by_the_audit_and_by_a_run(suite: Path, tmp_path: Path, name: str, kind: str) -> None:
    value, words = ODD[kind]
    OF_A_STEP[name](suite / "step4000", value)
    words = "damaged safetensors header" if name == "model.safetensors" else words
    [step] = json.loads(rtdyn("audit", "--model", suite, "--json").stdout)["steps"]
    assert step["verdict"] == "suspect" and name in step["reasons"][0] and words in step["reasons"][0]
    refused(rtdyn("track", "--model", suite, "--out", tmp_path / "run", *CHEAP), 3, name, words)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizers_files_are_refused(suite: Path, tmp_path: Path, name: str, kind: str) -> None:
    value, words = ODD[kind]
    add(suite / name, value)
    ended = rtdyn("track", "--model", suite, "--out", tmp_path / "run", *CHEAP)
    refused(ended, 3, f"the tokenizer in {suite} cannot be loaded", words)
    assert "sys." not in ended.stderr


@pytest.mark.parametrize("kind", ODD)
def test_files_of_rtdyns_own_are_refused(tmp_path: Path, kind: str) -> None:
    value, _ = ODD[kind]
    for name in ("manifest.json", "suites.yaml"):
        (tmp_path / name).write_text(f'{{"schema_version": {value}}}')
    refused(rtdyn("claims", tmp_path), 3, "manifest.json cannot be read")
    refused(rtdyn("steps", "--model", "tiny", "--suites", tmp_path / "suites.yaml"), 3, "is not valid YAML")


def test_a_corpus_with_long_numbers_is_read_and_one_too_deep_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text(f'{{"text": "one", "id": {LONG}}}\n{{"text": "two", "id": -{LONG}.5e{LONG}}}\n')
    assert read_documents(str(file)).texts == ("one", "two")
    file.write_text(f'{{"text": "one", "meta": {DEEP}}}\n')
    arguments = ("--model", "tiny", "--steps", "4000", "--out", tmp_path / "run", "--corpus", file)
    refused(rtdyn("track", *arguments, *CHEAP), 3, "line 1: nested too deeply to be read")
