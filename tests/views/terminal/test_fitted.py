"""Tables on a narrow terminal, a wide one and in a file: no word is broken, no number cut."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from support.planted_scorecard import planted

from rtdyn.cli import main
from rtdyn.cli_jobs import jobs_of
from rtdyn.cost.plan import Assumptions, HubAsker, plan_suite
from rtdyn.judge.check import Comparison, Finding
from rtdyn.judge.scorecard import scorecard
from rtdyn.suites.forms import KNOWN
from rtdyn.views.terminal.cost import print_plan
from rtdyn.views.terminal.findings import print_comparison
from rtdyn.views.terminal.fitted import print_fitted, print_whole
from rtdyn.views.terminal.scorecard import claim_cells, print_claims

ROWS = [
    {"suite": name, **{f"quantity {k} of it": f"{k},000.5 GB" for k in range(8)}} for name in ("pythia-1.4b", "mine")
]


def drawn(width: int, terminal: bool = True) -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=width, force_terminal=terminal, color_system=None), text


def words(text: str) -> set[str]:
    return set(re.sub("[│┃]", " ", text).split())


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_row_a_thing_where_it_fits_and_else_a_block(width: int) -> None:
    console, text = drawn(width)
    print_fitted("What it costs", ROWS, console, last=True)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("┏") for line in lines) == (width == 200)
    assert {
        word for row in ROWS for pair in row.items() for cell in pair[pair[0] == "suite" :] for word in cell.split()
    } <= words(text.getvalue())


def test_a_file_gets_the_table_however_wide_it_is() -> None:
    console, text = drawn(80, terminal=False)
    print_fitted("What it costs", ROWS, console)
    [row] = [line for line in text.getvalue().splitlines() if "pythia-1.4b" in line]
    assert row.count("000.5 GB") == 8 and len(row) > 80


@pytest.mark.parametrize("terminal", [True, False])
def test_the_closing_table_is_broken_on_a_terminal_alone(terminal: bool) -> None:
    console, text = drawn(40, terminal)
    table = Table("", "rare")
    table.add_row("mean influence (nats)", "0.009958 (0.00912 to 0.0113)")
    print_whole(table, console)
    lines = text.getvalue().splitlines()
    assert (max(map(len, lines)) <= 40) == terminal
    assert any("mean influence (nats) │ 0.009958 (0.00912 to 0.0113)" in line for line in lines) != terminal


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_is_read_at_eighty_columns(width: int) -> None:
    with main.commands["plan"].make_context(
        "plan", ["--model", "tiny", "--tokens", "13312", "--min-targets", "40"]
    ) as c:
        [job], _ = jobs_of(("tiny",), KNOWN, "0,4000", None, c.params, print)
    assumptions = Assumptions(100.0, (40.0, 20.0), 2**34, 1)
    plan = plan_suite(job, assumptions, HubAsker(print), lambda model, operations: 3600.0, print)
    console, text = drawn(width)
    print_plan([plan, plan], assumptions, console)
    tables = text.getvalue().partition("Downloads at")[0]
    assert max(map(len, tables.splitlines())) <= width and "…" not in tables
    for label in ("ablation TFLOP", "memory GiB", "in all on GPU h", "compute h"):
        assert len(re.findall(rf"^ +{label} +[0-9]", tables, re.MULTILINE)) >= 2, tables


@pytest.mark.parametrize("width", [80, 120])
def test_what_a_check_finds_is_named_in_one_piece(width: int) -> None:
    name = "heavytail/hill_alpha_half/plateau/selected/layer 3"
    moved = Finding("moved", 143000, name, "null_mean", 2.5251234, -3.1234567, "may move by 0.0075, moved by 5.649")
    gone = Finding("missing step", 512, "", "", None, None, "the run has not stored this step")
    console, text = drawn(width)
    print_comparison(Comparison("tiny", (moved, gone), ((143000, name),), {"tight": 10}, ()), 0, console)
    assert max(map(len, text.getvalue().splitlines())) <= width
    assert name in text.getvalue() and "null_mean: 2.525123 → -3.123457" in text.getvalue()
    assert set(f"{moved.why} {gone.why} missing step 143000 512".split()) <= words(text.getvalue())


@pytest.mark.parametrize("width", [80, 120])
def test_a_scorecard_breaks_between_words_alone(width: int, tmp_path: Path) -> None:
    rows = scorecard(planted(tmp_path / "run"))
    console, text = drawn(width)
    print_claims(rows, console)
    table = text.getvalue().rpartition("└")[0]
    shown = {word for row in rows for cell in claim_cells(row).values() for word in cell.split()}
    assert max(map(len, table.splitlines())) <= width and shown <= words(table)
