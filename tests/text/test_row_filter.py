"""Which rows of a file are measured: conditions on their fields, nested ones too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rtdyn.errors import InputError, UsageError
from rtdyn.text import documents
from rtdyn.text.documents import read_documents
from rtdyn.text.row_filter import ROWS_WITHOUT_MATCH, RowFilter

ROWS: list[dict[str, Any]] = [
    {"text": "law one", "meta": {"set": "FreeLaw", "year": 1999}, "clean": True},
    {"text": "web", "meta": {"set": "Pile-CC", "year": 2001}, "clean": True},
    {"text": "law two", "meta": {"set": "FreeLaw", "year": 2001}, "clean": False},
    {"text": None, "meta": {"set": "FreeLaw", "year": 2002}, "clean": True},
]


@pytest.fixture(params=["a.jsonl", "a.json", "large.jsonl", "a.parquet"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file = tmp_path / request.param
    if file.suffix == ".parquet":
        pl.DataFrame(ROWS).write_parquet(file)
    else:
        file.write_text("\n".join(json.dumps(row) for row in ROWS))
    if request.param.startswith("large"):
        monkeypatch.setattr(documents, "LARGE", 0)
    return str(file)


def chosen(corpus: str, *where: str) -> list[str]:
    return [text[:] for text in read_documents(corpus, where=where).texts]


def test_rows_that_meet_every_condition_are_read(corpus: str) -> None:
    assert chosen(corpus, "meta.set=FreeLaw") == ["law one", "law two"]
    assert chosen(corpus, "meta.set=FreeLaw", "meta.year=2001") == ["law two"]
    assert chosen(corpus, "clean=true") == ["law one", "web"]
    read = read_documents(corpus, where=("meta.set=FreeLaw",))
    assert read.name == f"{corpus} where meta.set=FreeLaw" and read.passed_over == 1
    assert read.sha256 != read_documents(corpus).sha256


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            ("meta.set=Freelaw",),
            r"none of 4 rows has meta.set=Freelaw \(there are FreeLaw, Pile-CC\); did you mean Free",
        ),
        (("meta.kind=x",), "no row has the field 'meta.kind'; correct --text-where"),
        (("other=x",), "no row has the field 'other'"),
        (("meta=x",), "no row has the field 'meta'"),
        (("meta.set=Pile-CC", "clean=false"), "none of 4 rows has meta.set=Pile-CC and clean=false"),
        (("meta.year=2002",), "holds no text"),
    ],
)
def test_conditions_that_no_row_meets_are_refused(corpus: str, where: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen(corpus, *where)


def test_values_that_are_texts_are_shown_by_their_beginnings() -> None:
    choice = RowFilter(["text=law"])
    choice.keeps({"text": "law\n" + "one " * 100})
    with pytest.raises(InputError, match=r"\(there are law one one [one ]+…\); correct --text-where"):
        choice.check("f")


@pytest.mark.parametrize("text", ["meta", "=x", ""])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write FIELD=VALUE"):
        RowFilter([text])
    assert RowFilter(["a=b=c"]).conditions == [(["a"], "b=c")] and RowFilter(["a="]).keeps({"a": ""})


def test_plain_text_has_no_fields(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for corpus in (str(tmp_path / "a.txt"), "king-james"):
        with pytest.raises(InputError, match="has no rows with fields; --text-where is for"):
            chosen(corpus, "a=b")


def test_a_value_that_many_rows_lack_is_given_up_and_one_met_before_is_not() -> None:
    lacking = RowFilter(["a=x"])
    for _ in range(ROWS_WITHOUT_MATCH - 1):
        lacking.keeps({"a": "y"})
    lacking.check("here", ROWS_WITHOUT_MATCH)
    lacking.keeps({"a": "y"})
    with pytest.raises(InputError, match=r"none of 50,000 rows has a=x \(there are y\)"):
        lacking.check("here", ROWS_WITHOUT_MATCH)
    met = RowFilter(["a=x"], met=True)
    met.keeps({"a": "y"})
    met.check("here")
