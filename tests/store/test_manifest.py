"""manifest.json as a record: the form of the file, keys of other versions, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rtdyn.errors import InputError
from rtdyn.store.manifest import SCHEMA_VERSION, CheckpointRecord, Manifest
from rtdyn.store.run import Run, read_run, write_manifest

EVERYTHING: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "suite": "mine",
    "location": "some/where",
    "config": {"suite": "mine", "tolerance": 1e-05, "rare": ["0.65:0.95"], "positions_per_rare": float("inf")},
    "config_digest": "d" * 64,
    "wandb_id": "mine-d",
    "evaluation": {
        "corpus": "text",
        "corpus_sha256": "c",
        "corpus_provenance": {"commit": "abc", "blocks": [[0, 1]]},
        "windows": 2,
        "tokens": 64,
        "kept_positions": 62,
        "sha256": "e",
        "clusters": 1,
        "cluster_unit": "documents",
    },
    "frequencies": {
        "source": "counts",
        "sha256": "f",
        "types": 9,
        "logits": 10,
        "bands_end_at_rank": 8,
        "bands_end_reason": "elbow",
        "provenance": {"commit": "abc"},
        "median_relative_se": {"rare": {"value": 0.5, "reason": None}, "common": {"value": None, "reason": "few"}},
    },
    "classes": {"rare": {"band": "0.65:0.95", "ranks": [3, 8], "types": 6, "positions": 5, "measured": 4}},
    "schedule": {
        "last_step": 4,
        "steps_are_updates": True,
        "defects": [
            {"steps": [1, 2], "kind": "duplicate", "note": "n", "source": "s", "belongs_to": 1, "whole": True},
            {"steps": [3], "kind": "missing", "note": "n", "source": "s", "belongs_to": None, "whole": False},
        ],
    },
    "versions": {"rtdyn": "0.1.0"},
    "checkpoints": {
        "0": {"revision": "step0", "commit": None, "digests": {"a": "x"}},
        "2": {"revision": "step2", "commit": "c", "digests": {"a": "x"}, "read_by_ranges": True},
        "4": {"revision": "step4", "commit": "c", "digests": {"a": "x"}, "copy_of": 2},
    },
    "left_out": {"4": "it holds the same weights as step 2"},
    "command": None,
    "group": "mine-1",
    "audit": {
        "made": "2026-01-02T03:04:05+00:00",
        "steps": {"1": {"verdict": "missing", "reasons": ["it is not there"], "left_out": False, "commit": None,
                        "digests": {}}},
        "findings": ["one branch more"],
        "passed_over": {"1": "it is not there"},
    },
}  # fmt: skip


def written(path: Path, data: object) -> str:
    text = json.dumps(data, indent=1) + "\n"
    (path / "manifest.json").write_text(text, encoding="utf-8")
    return text


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in EVERYTHING.items() if key not in keys}


@pytest.mark.parametrize(
    "data",
    [
        EVERYTHING,
        without("evaluation", "frequencies", "classes", "group"),
        without("schedule", "audit", "command"),
        # a key that came to the file later stays behind the others
        {**without("group"), "group": "mine-1"},
    ],
)
def test_a_manifest_that_is_read_and_written_keeps_its_bytes(tmp_path: Path, data: dict[str, Any]) -> None:
    text = written(tmp_path, data)
    write_manifest(read_run(tmp_path))
    assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == text


def test_keys_that_it_does_not_know_are_kept(tmp_path: Path) -> None:
    data = {"further": {"a": [1]}, **EVERYTHING}
    data["evaluation"] = {**EVERYTHING["evaluation"], "further": 1}
    data["checkpoints"] = {"0": {**EVERYTHING["checkpoints"]["0"], "further": [2]}}
    text = written(tmp_path, data)
    run = read_run(tmp_path)
    write_manifest(Run(tmp_path, run.manifest.replace(left_out={})))
    assert json.loads((tmp_path / "manifest.json").read_text()) == {**json.loads(text), "left_out": {}}


def test_its_parts_are_records(tmp_path: Path) -> None:
    written(tmp_path, EVERYTHING)
    manifest = read_run(tmp_path).manifest
    assert manifest.checkpoints[2].read_by_ranges and manifest.checkpoints[4].copy_of == 2
    assert manifest.checkpoints[0] == CheckpointRecord(revision="step0", commit=None, digests={"a": "x"})
    assert manifest.classes["rare"].ranks == (3, 8) and list(manifest.left_out) == [4]
    assert manifest.schedule is not None and manifest.schedule.defects[0].same_weights
    with pytest.raises(ValidationError, match="frozen"):
        manifest.suite = "other"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (without("config"), "lacks its configuration"),
        (without("config_digest"), "lacks its configuration"),
        ({**EVERYTHING, "config": "seed 0"}, "lacks its configuration"),
        (without("suite"), "suite: Field required"),
        ({**EVERYTHING, "left_out": {"last": "why"}}, "left_out.last"),
        ({**EVERYTHING, "checkpoints": {"0": {"revision": "step0", "commit": None}}}, "checkpoints.0.digests: Field"),
        (without("schema_version"), "store schema None"),
        ([], "store schema None"),
    ],
)
def test_what_a_manifest_lacks_or_mistypes_is_said_in_one_sentence(tmp_path: Path, data: object, words: str) -> None:
    written(tmp_path, data)
    with pytest.raises(InputError) as refused:
        read_run(tmp_path)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_what_was_never_given_is_not_written() -> None:
    manifest = Manifest(schema_version=SCHEMA_VERSION, suite="s", config={}, config_digest="d")
    assert list(manifest.as_json()) == ["schema_version", "suite", "config", "config_digest"]
    assert list(manifest.replace(group=None).as_json()) == [
        "schema_version",
        "suite",
        "config",
        "config_digest",
        "group",
    ]
