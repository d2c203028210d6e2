"""`--preset paper`: two jobs a suite, the papers' whole design beside ours, and that what is given is of both."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import pytest

import rtdyn
from rtdyn.cli import main
from rtdyn.cli_config import settings_of
from rtdyn.cli_jobs import jobs_of
from rtdyn.cli_presets import paper_settings, preset_line
from rtdyn.errors import UsageError
from rtdyn.integrations.transformers import RtdynCallback
from rtdyn.many import job_labels
from rtdyn.store.settings_file import SETTINGS, write_settings
from rtdyn.suites.find import load_suites
from rtdyn.sweep.job import Job
from rtdyn.sweep.paper import C4, PAPER_SETTINGS, paper_notes
from rtdyn.text.evaluation_text import open_text


def jobs(*args: str) -> tuple[tuple[Job, ...], list[str], str | None]:
    """The jobs of `rtdyn track` with these arguments, what is said meanwhile, and what is said of the preset."""
    with main.commands["track"].make_context("track", list(args)) as context:
        params: dict[str, Any] = {**context.params, "paper": paper_settings(), "settings": settings_of(context, ())}
        said: list[str] = []
        sources = (params["models"], params["pattern"], params["steps"], params["suites"])
        return jobs_of(*sources, params, said.append)[0], said, preset_line()


def test_a_suite_is_measured_by_both_designs_which_differ_in_nothing_else() -> None:
    (own, paper), said, line = jobs("--model", "pythia-410m-deduped", "--steps", "0,512", "--preset", "paper")
    [usual], _, _ = jobs("--model", "pythia-410m-deduped", "--steps", "0,512")
    assert own == replace(usual, design="own") and said == []
    changed = {**asdict(own.measured_on), **asdict(own.options)}
    theirs = {**asdict(paper.measured_on), **asdict(paper.options)}
    assert {name: value for name, value in theirs.items() if value != changed[name]} == {
        name: value for name, value in PAPER_SETTINGS.items() if name != "heads_at"
    }
    assert paper.suite == replace(own.suite, corpus=C4, frequencies="pile") and paper.steps == own.steps == (0, 512)
    assert job_labels([own, paper]) == ["pythia-410m-deduped-own", "pythia-410m-deduped-paper"]
    assert line == (
        "--preset paper measures twice: with the options as they are, and with --documents 500 --tokens 2560 "
        "--rare 0.5:elbow --class-by query --min-targets 2 --positions-per-rare 2560 --mean-over all --heads-to bos "
        "--heads-at query --unigram longtail"
    )


def test_ten_sequences_are_measured_however_many_targets_ours_is_to_hold() -> None:
    (own, paper), _, _ = jobs("--model", "tiny", "--preset", "paper", "--rare-targets", "800")
    assert (own.measured_on.rare_targets, own.measured_on.tokens) == (800, None)
    assert (paper.measured_on.rare_targets, paper.measured_on.tokens) == (None, 2560)


def test_what_is_given_is_of_both_also_where_it_is_the_default_or_in_a_file(tmp_path: Path) -> None:
    given = (
        "--class-by",
        "target",
        "--rare",
        "30%",
        "--corpus",
        "king-james",
        "--frequencies",
        "corpus",
        "--seed",
        "3",
    )
    (own, paper), _, line = jobs("--model", "pythia-70m-deduped", "--preset", "paper", *given)
    for job in (own, paper):
        assert (job.measured_on.class_by, job.measured_on.bands) == ("target", ("30%",))
        assert (job.measured_on.corpus, job.measured_on.frequencies, job.measured_on.seed) == (
            "king-james",
            "corpus",
            3,
        )
    assert paper.measured_on.documents == 500 and own.measured_on.documents is None
    assert line is not None and line.endswith("; given for both: --rare 30% --class-by target")
    (tmp_path / "a.yaml").write_text("class-by: target\n")
    (own, paper), _, _ = jobs("--model", "tiny", "--config", str(tmp_path / "a.yaml"), "--preset", "paper")
    assert own.measured_on.class_by == paper.measured_on.class_by == "target"


@pytest.mark.parametrize("model", ["tiny", "pythia-410m"])
def test_the_settings_that_a_run_keeps_make_its_own_job_again(model: str, tmp_path: Path) -> None:
    made, _, _ = jobs("--model", model, "--steps", "0", "--preset", "paper", "--rare-targets", "300")
    for job in made:
        (tmp_path / job.design).mkdir()
        write_settings(tmp_path / job.design, dict(job.settings))
        [again], _, _ = jobs("--config", str(tmp_path / job.design / SETTINGS))
        assert (again.measured_on.corpus or again.suite.corpus) == job.suite.corpus
        assert (again.measured_on.frequencies or again.suite.frequencies) == job.suite.frequencies
        assert replace(again.measured_on, corpus=None, frequencies=None) == job.measured_on
        assert again.options == job.options


def test_suites_that_the_papers_did_not_measure_are_told() -> None:
    known = load_suites()
    for name, words in {
        "pythia-410m": r"deduplicated Pile, and this is none; --model pythia-410m-deduped is one",
        "pythia-14m-seed3": r"deduplicated Pile, and this is none$",
        "tiny": r"both designs are measured on the suite's own text",
    }.items():
        [note] = paper_notes(known[name], None, known)
        assert note.startswith(f"{name}: ") and re.search(words, note)
    assert paper_notes(known["pythia-410m-deduped"], None, known) == []
    assert paper_notes(known["tiny"], "king-james", known) == []
    (own, paper), said, _ = jobs("--model", "tiny", "--preset", "paper", "--steps", "0")
    assert paper.suite == own.suite and said == paper_notes(own.suite, None, known)


def test_several_suites_have_two_runs_each() -> None:
    made, _, _ = jobs("--model", "pythia-70m-deduped", "--model", "pythia-160m-deduped", "--preset", "paper")
    assert job_labels(made) == [f"pythia-{s}m-deduped-{design}" for s in (70, 160) for design in ("own", "paper")]
    assert [job.settings["model"] for job in made] == [*["pythia-70m-deduped"] * 2, *["pythia-160m-deduped"] * 2]


def test_the_address_is_of_the_commit_that_suites_are_measured_on() -> None:
    c4 = next(s.corpus for s in load_suites().values() if "allenai/c4" in s.corpus)
    assert c4.replace("c4-validation.*", "c4-validation.00000-of-00008") == C4


def test_conditions_on_rows_are_refused_before_our_run_where_the_texts_are_two() -> None:
    asked = ("--model", "pythia-70m-deduped", "--preset", "paper", "--text-where", "meta.pile_set_name=FreeLaw")
    with pytest.raises(UsageError, match=r"--preset paper measures C4 too.*give a --corpus for both designs"):
        jobs(*asked)
    (own, paper), _, _ = jobs(*asked, "--corpus", "law.jsonl")
    assert own.measured_on.text_where == paper.measured_on.text_where == ("meta.pile_set_name=FreeLaw",)


def test_two_runs_are_refused_where_only_one_can_be_made() -> None:
    with pytest.raises(UsageError, match=r"--preset paper is of a text, and these analyses read none"):
        jobs("--model", "tiny", "--preset", "paper", "--analyses", "heavytail")
    with pytest.raises(UsageError, match=r"makes two runs of a model, and rtdyn.track opens one"):
        rtdyn.track("tiny", preset="paper")
    with pytest.raises(UsageError, match=r"makes two runs of a model, and a model in memory has none"):
        rtdyn.analyse(None, None, ["a"], preset="paper")
    with pytest.raises(UsageError, match=r"makes two runs of a model, and the callback makes one"):
        RtdynCallback(preset="paper")
    with (
        pytest.raises(click.UsageError, match=r"--follow follows one; leave it out"),
        main.make_context("rtdyn", ["track"]) as group,
        main.commands["track"].make_context(
            "track", ["--model", "tiny", "--preset", "paper", "--follow"], group
        ) as own,
    ):
        main.commands["track"].invoke(own)


def test_without_a_hub_the_king_james_bible_stands_in_for_the_papers_text() -> None:
    (_, paper), _, _ = jobs("--model", "pythia-70m-deduped", "--preset", "paper", "--steps", "0")
    said: list[str] = []
    asked = paper.measured_on
    text = open_text(paper.suite, asked.corpus, asked.text_field, asked.seed, said.append, (), asked.documents)
    assert len(text.documents.texts) == 500 and text.documents.name == "king-james, its first 500 documents"
    assert f"the default text {C4} is not cached, the Hub not reached" in said[-1]
