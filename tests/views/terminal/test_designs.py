"""Two designs side by side: in the terminal, as a table for machines, on the page, and where there is none to show."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from rich.console import Console
from support.synthetic import synthetic_run

from rtdyn.cli import main
from rtdyn.judge.designs import STATISTICS, compare_designs
from rtdyn.judge.overview import overview
from rtdyn.many import Outcome
from rtdyn.store.run import Run, read_run, write_manifest
from rtdyn.views.report.page import page
from rtdyn.views.report.panels import judged_panels
from rtdyn.views.report.run_tables import labels, show
from rtdyn.views.terminal.designs import pair_of, print_designs, undefined_reasons
from rtdyn.views.terminal.runs import run_record

pytestmark = pytest.mark.slow  # seconds in all: whole runs are planted


def of_design(path: Path, design: str, steps: int = 5, **manifest: object) -> Run:
    run = read_run(synthetic_run(path / design, steps, 60, seed=len(design)))
    write_manifest(Run(run.path, run.manifest.replace(design=design, **manifest)))
    return read_run(run.path)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    return of_design(tmp_path, "own"), of_design(tmp_path, "paper")


def said(*outcomes: Outcome) -> str:
    file = io.StringIO()
    print_designs(outcomes, Console(file=file, width=300))
    return file.getvalue()


def test_runs_are_a_pair_where_both_designs_of_one_suite_are_all_there_are(runs: tuple[Run, Run]) -> None:
    own, paper = runs
    assert pair_of([own, paper]) == pair_of([paper, own]) == (own, paper)
    assert labels([own, paper]) == ["synthetic, rtdyn's design", "synthetic, the papers' design"]
    other = Run(paper.path, paper.manifest.replace(suite="another"))
    plain = Run(paper.path, paper.manifest.replace(design=""))
    for several in ([own], [own, own], [own, other], [own, plain], [own, paper, own]):
        assert pair_of(several) is None


def test_a_runs_record_and_row_name_its_design(runs: tuple[Run, Run]) -> None:
    assert [run_record(overview(run.path))["design"] for run in runs] == ["own", "paper"]
    shown = CliRunner().invoke(main, ["show", str(runs[1].path)])
    assert "design: paper" in shown.stdout.splitlines()


def test_the_closing_tables_have_every_statistic_and_the_command_for_the_page(runs: tuple[Run, Run]) -> None:
    own, paper = runs
    text = said(Outcome("synthetic-own", own, None), Outcome("synthetic-paper", paper, None))
    assert "synthetic at step 8: the papers' design and rtdyn's, intervals 95 %" in text
    for statistic in STATISTICS:
        assert statistic.text in text and statistic.published in text
    excess = [line for line in text.splitlines() if "three-regimes-rare: excess" in line]
    value = next(r for r in compare_designs(own, paper).rows if r.statistic.metric == "excess").change
    assert value == 0 and len(excess) == 1 and "+0" in excess[0]
    assert "verdicts on the published claims" in text and "undefined by either design: not measured" in text
    assert f"`rtdyn report {own.path} {paper.path}` puts both on one page" in text


def test_a_reason_is_said_once_for_all_that_it_is_of(runs: tuple[Run, Run]) -> None:
    [unmeasured] = undefined_reasons(compare_designs(*runs))
    assert unmeasured.startswith(
        "undefined by either design: not measured at this step (paper_code_plateau_deviation; "
    )
    assert "gini_difference, layer 4; gini_difference, layer 5" in unmeasured


def test_a_run_that_failed_is_named_and_leaves_nothing_to_compare(runs: tuple[Run, Run]) -> None:
    text = said(Outcome("a-own", runs[0], None), Outcome("a-paper", None, "the class 'rare' has only 1 positions"))
    assert "a-paper failed: the class 'rare' has only 1 positions" in text
    assert "No comparison of a-own and a-paper: one of them holds no step." in text


@pytest.mark.slow
def test_the_page_of_both_has_a_section(runs: tuple[Run, Run]) -> None:
    shown = [show(run, label) for run, label in zip(runs, labels(list(runs)), strict=True)]
    judged = [judged_panels(tables) for tables in shown]
    text = page(shown, judged, {}, compare_designs(*runs))
    section = text[text.index('<section id="designs">') : text.index('<section id="claims">')]
    assert section.count('<tr><th scope="row">three-regimes-rare') == 4  # a verdict and three statistics
    assert "first e^3.5 neurons above one line" in section and "not measured at this step" in section
    assert 'id="designs"' not in page(shown, judged, {})


@pytest.mark.slow
def test_the_report_of_both_has_a_table_for_machines(tmp_path: Path) -> None:
    runs, out = [of_design(tmp_path, design, steps=1) for design in ("own", "paper")], tmp_path / "out"
    paths = [str(run.path) for run in runs]
    result = CliRunner().invoke(main, ["report", *paths, "--out", str(out), "--format", "png"])
    assert result.exit_code == 0, result.output
    assert "No verdicts: " in result.stdout and '<section id="designs">' in (out / "report.html").read_text()
    table, rows = pl.read_csv(out / "designs.csv"), compare_designs(*runs).rows
    assert table["metric"].to_list() == [row.statistic.metric for row in rows]
    excess = table.filter(metric="excess", claim="three-regimes-rare")
    assert (excess["own"].item(), excess["change"].item()) == (pytest.approx(-0.3), 0)
