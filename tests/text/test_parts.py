"""Parts of one text: told apart by a field, each with its own rows, and the text read once for all."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from conftest import LATE
from loopback.datasets import LoopbackDatasets
from loopback.place import hub_environment
from support.hang import HANG
from support.processes import run_python

from rtdyn.errors import InputError, UsageError
from rtdyn.suites.suite import KnownText, SuiteSpec
from rtdyn.text import parts as module
from rtdyn.text.documents import read_documents
from rtdyn.text.domains import prepare_with_domains
from rtdyn.text.options import EvaluationOptions
from rtdyn.text.parts import MOST, PILE_ADDRESS, PILE_PARTS, Part, Parts, labelled_rows, open_parts

KNOWN = KnownText("f.jsonl", "not checked", "")
ROWS: list[dict[str, Any]] = [
    {"text": "law one", "meta": {"set": "FreeLaw", "year": 1999}},
    {"text": "web", "meta": {"set": "Pile-CC", "year": 2001}},
    {"text": "law two", "meta": {"set": "FreeLaw", "year": 2001}},
    {"text": None, "meta": {"set": "Books", "year": 2002}},
    {"text": "  ", "meta": {"set": "Books", "year": 2002}},
    {"text": "of none", "meta": {"set": None, "year": 2002}},
    {"text": "of blank", "meta": {"set": " "}},
]


def lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


@pytest.fixture(params=["a.jsonl", "a.json", "large.jsonl", "a.parquet"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file: Path = tmp_path / request.param
    if file.suffix == ".parquet":
        pl.DataFrame(ROWS).write_parquet(file)
    else:
        file.write_text(lines(ROWS))
    if request.param.startswith("large"):
        monkeypatch.setattr(module, "LARGE", 0)
    return file


def test_each_row_is_behind_the_value_of_its_field(corpus: Path) -> None:
    rows = labelled_rows(corpus, "text", "meta.set")
    assert [(label, text[:]) for label, text in rows] == [
        ("FreeLaw", "law one"), ("Pile-CC", "web"), ("FreeLaw", "law two"),
    ]  # fmt: skip
    assert [label for label, _ in labelled_rows(corpus, "text", "meta.year")] == ["1999", "2001", "2001", "2002"]


def test_a_field_that_no_row_has_is_refused(corpus: Path) -> None:
    for field in ("meta.kind", "other", "meta"):
        with pytest.raises(InputError, match=f"(no row has the field '{field}'|no column 'other').*correct --domains"):
            labelled_rows(corpus, "text", field)
    with pytest.raises(InputError, match="--text-field"):
        labelled_rows(corpus, "content", "meta.set")


def test_what_has_no_rows_with_fields_is_refused(tmp_path: Path, options: EvaluationOptions) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "array.json").write_text("[1]")
    for name, says in (
        ("a.txt", "has no rows with fields; --domains is for"),
        ("b.jsonl", "is not there; correct --domains"),
        ("array.json", "begins a JSON array"),
    ):
        with pytest.raises(InputError, match=says):
            labelled_rows(tmp_path / name, "text", "meta")
    for domains in ("books", "::field", "a.jsonl::"):
        with pytest.raises(UsageError, match="give pile, or ADDRESS::FIELD"):
            open_parts(domains, options, print)


def blocks_of(*blocks: dict[str, list[str]]) -> tuple[list[int], Any]:
    """How many blocks were read, and the blocks."""
    read: list[int] = []

    def each() -> Any:
        for number, block in enumerate(blocks):
            read.append(number)
            yield [(name, text) for name, texts in block.items() for text in texts]

    return read, each()


def test_parts_are_met_on_the_way_and_what_is_of_another_waits() -> None:
    read, blocks = blocks_of({"a": ["1"], "b": ["x"]}, {"a": ["2"]}, {"b": ["y"], "c": ["!"]}, {"a": ["3"]})
    parts = Parts("f.jsonl", "set", "f.jsonl", blocks)
    names = parts.names()
    assert next(names) == "a" and read == [0]
    own = Part(parts, "a", KNOWN).blocks
    assert [next(own), next(own)] == [["1"], ["2"]] and read == [0, 1]
    finished = Part(parts, "a", KNOWN).documents
    assert finished.texts == ("1", "2") and finished.name == "f.jsonl where set=a"
    parts.close("a")
    assert next(names) == "b" and list(Part(parts, "b", KNOWN).blocks) == [["x"], ["y"]]
    assert read == [0, 1, 2, 3], "each block once"
    parts.close("b")
    assert next(names) == "c" and list(Part(parts, "c", KNOWN).blocks) == [["!"]]
    assert parts.texts["a"] == [] and next(names, None) is None


def test_a_part_that_is_expected_and_not_there_has_no_text() -> None:
    _, blocks = blocks_of({"a": ["1"]})
    parts = Parts("f", "set", "f", blocks, expected=("z", "a"))
    assert list(parts.names()) == ["z", "a"] and list(Part(parts, "z", KNOWN).blocks) == []
    with pytest.raises(InputError, match="f holds no text of z"):
        _ = Part(parts, "z", KNOWN).documents


def test_a_field_that_tells_rows_apart_is_refused() -> None:
    _, blocks = blocks_of({f"u{i}": ["x"] for i in range(MOST + 1)})
    with pytest.raises(InputError, match=rf"the field 'url' has over {MOST} values \(u0, u1, u2, …\)"):
        list(Parts("f", "url", "f", blocks).names())
    _, blocks = blocks_of({"of none\nbut " + "long " * 40: ["x"]})
    with pytest.raises(
        InputError, match=r"the value 'of none but long [long ]+…', which is a text and no name"
    ) as said:
        list(Parts("f", "text", "f", blocks).names())
    assert len(str(said.value)) < 250


def books(first: int, last: int) -> list[str]:
    return [text[:] for text in read_documents("king-james-held-out").texts[first:last]]


def pile(seed: int = 0) -> bytes:
    """A file in the Pile's form: two large parts, one of few rows, and rows in random order."""
    texts = {"FreeLaw": books(0, 100), "Pile-CC": books(100, 200), "Enron Emails": books(200, 203)}
    rows = [{"text": t, "meta": {"pile_set_name": name}} for name, own in texts.items() for t in own]
    random.Random(seed).shuffle(rows)
    return lines(rows).encode()


WORKER = """
import json, sys
from dataclasses import replace
from rtdyn.errors import RtdynError
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.text import parts
from rtdyn.text.domains import prepare_with_domains
from rtdyn.text.options import EvaluationOptions

OPTIONS = EvaluationOptions(tokens=13312, min_targets=40, positions_per_rare=1.5)


def pile():
    parts.COUNTING_STRETCH = 1 << 14
    made = prepare_with_domains(find_suite("tiny", load_suites()), 4000, replace(OPTIONS, domains="pile"))
    law = made.domains["FreeLaw"]
    return {
        "measured": {name: domain.text.sha256 for name, domain in made.domains.items()},
        "left out": {name: fault.rare for name, fault in made.left_out.items()},
        "law": [law.corpus_name, dict(law.corpus_provenance)],
    }


def opened(address, **constants):
    vars(parts).update(constants)
    made = parts.open_parts(address, EvaluationOptions(), print)
    texts = {name: [list(texts) for texts in parts.Part(made, name, None).blocks] for name in made.names()}
    return {"texts": texts, "read": sum(block.size for block in made.hub.used)}


for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        print(json.dumps(globals()[name](**arguments)), flush=True)
    except RtdynError as error:
        print(json.dumps(str(error)), flush=True)
"""


@pytest.fixture(scope="module")
def answers(takes_long: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process is told by a loopback Hub, and the ranges of the Pile's file that it asked for."""
    repo, _, rest = PILE_ADDRESS.removeprefix("hf://datasets/").partition("@")
    commit, _, file = rest.partition("/")
    packed = pa.compress(pile(), codec="zstd", asbytes=True)
    asked = {
        "pile": ("pile", {}),
        "again": ("pile", {}),
        "cut": ("opened", {"address": "hf://datasets/o/n/cut.jsonl.zst::meta.pile_set_name"}),
        "no field": ("opened", {"address": "hf://datasets/o/n/a.jsonl.gz::meta.kind"}),
        "gzip": ("opened", {"address": "hf://datasets/o/n/a.jsonl.gz::meta.set"}),
        "limit": (
            "opened",
            {"address": "hf://datasets/o/n/p.jsonl::meta.pile_set_name", "COUNTING_STRETCH": 1 << 14,
             "READ_A_TARGET": 1 << 10},
        ),
    }  # fmt: skip
    with LoopbackDatasets() as hub:
        hub.commits[f"{repo}@{commit}"] = {file: pile(), "test.jsonl": b"{}"}
        hub.branches[repo, "main"] = commit
        half, rows = packed[: len(packed) // 2], gzip.compress(lines(ROWS).encode())
        hub.put("o/n", {"cut.jsonl.zst": half, "a.jsonl.gz": rows, "p.jsonl": pile()})
        calls = "".join(json.dumps(call) + "\n" for call in asked.values())
        environment = hub_environment(hub.url, tmp_path_factory.mktemp("home"))
        ended = run_python(["-c", WORKER], input=calls, env=environment, timeout=HANG)
        assert ended.returncode == 0, ended.stderr
        given = dict(zip(asked, map(json.loads, ended.stdout.splitlines()), strict=True))
        return {**given, "ranges": Counter(r for name, r in hub.requests if name == file), "address": (repo, commit)}


@pytest.mark.slow
def test_the_pile_is_read_once_for_all_parts_and_then_not_again(answers: dict[str, Any]) -> None:
    made, (repo, commit) = answers["pile"], answers["address"]
    assert list(made["measured"]) == ["Pile-CC", "FreeLaw"]
    assert len(made["left out"]) == len(PILE_PARTS) - 2 == 20
    assert made["left out"]["Enron Emails"] > 0 and made["left out"]["ArXiv"] == 0
    ranges = answers["ranges"]
    assert len(ranges) > 20 and max(ranges.values()) == 1, "a part of the file was read twice"
    name, provenance = made["law"]
    assert name.endswith("where meta.pile_set_name=FreeLaw")
    assert (provenance["repo"], provenance["commit"]) == (repo, commit) and provenance["documents"] > 50
    assert answers["again"] == made


@pytest.mark.slow
def test_no_more_is_read_than_the_rare_targets_may_take(answers: dict[str, Any]) -> None:
    assert 200 << 10 <= answers["limit"]["read"] < len(pile()) / 2
    assert {"FreeLaw", "Pile-CC"} <= set(answers["limit"]["texts"])


@pytest.mark.slow
def test_compressed_files_that_are_cut_and_fields_that_are_not_there_are_refused(answers: dict[str, Any]) -> None:
    assert "cut.jsonl.zst ends inside its Zstandard stream" in answers["cut"]
    assert "no row has the field 'meta.kind'; correct --domains" in answers["no field"]
    assert answers["gzip"]["texts"] == {"FreeLaw": [["law one", "law two"]], "Pile-CC": [["web"]]}


@pytest.mark.slow
def test_a_part_called_as_a_named_text_is_refused(tiny: SuiteSpec, options: EvaluationOptions, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    named = (("FreeLaw", "king-james"),)
    with pytest.raises(UsageError, match="is called 'FreeLaw', as a --corpus is"):
        prepare_with_domains(
            tiny, LATE, replace(options, named_texts=named, domains=f"{tmp_path / 'a.jsonl'}::meta.set")
        )
