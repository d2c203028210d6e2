"""Further texts beside the main one: the same classes, each its own windows, and which are left out."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import LATE

from rtdyn.errors import InputError, UsageError
from rtdyn.names import SWEEP
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text import domains as module
from rtdyn.text.documents import read_documents
from rtdyn.text.domains import prepare_with_domains
from rtdyn.text.evaluation import prepare
from rtdyn.text.options import EvaluationOptions

pytestmark = pytest.mark.slow


def chapters(file: Path, first: int, last: int) -> str:
    texts = read_documents("king-james-held-out").texts[first:last]
    file.write_text("\n".join(json.dumps({"text": text[:]}) for text in texts))
    return str(file)


@pytest.fixture
def named(options: EvaluationOptions, tmp_path: Path) -> EvaluationOptions:
    (tmp_path / "short.txt").write_text("In the beginning.")
    texts = (
        ("law", chapters(tmp_path / "law.jsonl", 0, 100)),
        ("few", chapters(tmp_path / "few.jsonl", 100, 106)),
        ("short", str(tmp_path / "short.txt")),
        ("book", "king-james"),
    )
    return replace(options, named_texts=texts)


def test_each_text_is_measured_on_the_main_texts_classes_and_sparse_ones_are_left_out(
    tiny: SuiteSpec, options: EvaluationOptions, named: EvaluationOptions
) -> None:
    said: list[str] = []
    made, main = prepare_with_domains(tiny, LATE, named, said.append), prepare(tiny, LATE, options)
    assert list(made.domains) == ["law", "book"] and list(made.left_out) == ["few", "short"]
    assert made.text.sha256 == main.text.sha256
    for domain in made.domains.values():
        assert domain.counts is made.counts and domain.classes.named("rare") is made.classes.named("rare")
        assert domain.text.windows.size == options.tokens and domain.text.sha256 != main.text.sha256
        assert not domain.domains and set(domain.kinds) == {"rare", "common"}
    assert made.domains["law"].corpus_name.endswith("law.jsonl")
    few, short = made.left_out["few"], made.left_out["short"]
    assert 0 < few.rare < 40 and f"the class 'rare' has only {few.rare} positions" in few.reason
    assert (short.rare, short.reason) == (0, "its text is shorter than one window of 256 tokens")


def test_a_domain_without_rare_targets_is_searched_no_further_than_a_multiple_of_the_main_text(
    tiny: SuiteSpec, named: EvaluationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 1)
    said: list[str] = []
    made = prepare_with_domains(
        tiny, LATE, replace(named, tokens=None, min_targets=2, bands=("paper-text",)), said.append
    )
    for name, domain in made.domains.items():
        assert domain.text.windows.size <= made.text.windows.size
        rare = domain.positions.classes[0].available
        assert rare >= 200 or any(line.startswith(f"{name} holds {rare:,} rare targets of the 200") for line in said)
    assert any("times the main text's" in line for line in said) and any(
        "tokens, all that was read of it" in line for line in said
    )


def test_texts_shorter_than_the_tokens_asked_for_are_told(
    tiny: SuiteSpec, options: EvaluationOptions, tmp_path: Path
) -> None:
    said: list[str] = []
    texts = (("law", chapters(tmp_path / "law.jsonl", 0, 12)), ("book", chapters(tmp_path / "book.jsonl", 0, 60)))
    short = replace(options, corpus=texts[0][1], named_texts=texts, tokens=30_000, min_targets=2)
    made = prepare_with_domains(tiny, LATE, short, said.append)
    law, main = made.domains["law"].text.windows.size, made.text.windows.size
    assert max(law, main) < 30_000 <= made.domains["book"].text.windows.size
    assert [line for line in said if "asked for" in line] == [
        f"the text holds {main:,} tokens of the 30,000 asked for, and is measured whole",
        f"law holds {law:,} tokens of the 30,000 asked for, all that was read of it",
    ]


def test_bands_of_a_sweep_are_left_out_of_a_domain_by_themselves(tiny: SuiteSpec, named: EvaluationOptions) -> None:
    said: list[str] = []
    made = prepare_with_domains(tiny, LATE, replace(named, bands=SWEEP), said.append)
    own = {name: [c.name for c in domain.classes.classes] for name, domain in made.domains.items()}
    assert set(own["law"]) <= {c.name for c in made.classes.classes} and own["law"][0] == "rare"
    assert all(np.isin(list(domain.kinds), own[name]).all() for name, domain in made.domains.items())


def test_what_cannot_be_read_is_refused(tiny: SuiteSpec, options: EvaluationOptions, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text"))
    for corpus, says in (("nowhere.txt", "nowhere.txt is not there"), (str(tmp_path / "a.txt.gz"), "a .gz file")):
        with pytest.raises(InputError, match=says):
            prepare_with_domains(tiny, LATE, replace(options, named_texts=(("x", corpus),)))
    with pytest.raises(UsageError, match="two texts are called 'x'"):
        replace(options, named_texts=(("x", "a"), ("x", "b")))
