"""Domains beside the main text as a run stores them: rows, verdicts, table, figure and frames."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from judge.test_bands import CLASSES, NEURONS, RANKS
from matplotlib.text import Text
from rich.console import Console
from store.test_run import manifest, record
from support.planted_scorecard import STEPS, measured

from rtdyn.errors import InputError
from rtdyn.judge.bands import BAND_CLAIMS, Estimate
from rtdyn.judge.domains import domain_rows, domain_summary
from rtdyn.judge.verdict import CONTRADICTED, SUPPORTED
from rtdyn.names import COMMON, DOMAINS, RARE
from rtdyn.store.manifest import (
    DomainRecord,
    EvaluationRecord,
    LeftOutDomainRecord,
    TargetKindsRecord,
    TokenClassRecord,
)
from rtdyn.store.run import Run, done_steps, open_run, table_file, write_copy, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.sweep.extend import join
from rtdyn.tables.domains import domain_frame
from rtdyn.undefined import Undefined
from rtdyn.views.notebook import read_frames
from rtdyn.views.report.plots.domains import domains_figure
from rtdyn.views.report.run_tables import show
from rtdyn.views.terminal.domains import DOMAIN_HEADERS, domain_cells, left_out_line, print_domains

TEXT = EvaluationRecord(
    corpus="law.jsonl", corpus_sha256="", windows=3, tokens=768, kept_positions=750, sha256="a", clusters=30,
    cluster_unit="documents",
)  # fmt: skip
KINDS = TargetKindsRecord(types=31, byte_fragments=0.25, no_whole_words=0.5)


def of_domain(targets: int) -> DomainRecord:
    classes = {RARE: CLASSES[RARE].replace(measured=targets, kinds=KINDS), COMMON: CLASSES[COMMON]}
    return DomainRecord(evaluation=TEXT, classes=classes)


def curve_rows(step: int) -> list[Metric]:
    return [row for row in measured(step) if row.analysis == "regimes"]


def planted(path: Path, steps: tuple[int, ...] = STEPS) -> Run:
    """A run with a domain whose curve is turned upside down, one as the main text, and one left out."""
    told = manifest().replace(
        classes={name: CLASSES[name] for name in (RARE, COMMON)},
        domains={"law": of_domain(120), "gospel": of_domain(300)},
        domains_left_out={"code": LeftOutDomainRecord(rare_targets=7, reason="too few")},
    )
    run = open_run(path, told)
    for step in steps:
        rows = curve_rows(step)
        flat = [replace(r, value=-0.5, ci_low=-0.9, ci_high=-0.1) if r.metric == "excess" else r for r in rows]
        law = [Metric("capture", "loss", 3.25, RARE, ci_low=3.0, ci_high=3.5, n=120),
               Metric(DOMAINS, "rank_spearman", 0.5, RARE, ci_low=0.4, ci_high=0.6),
               Metric(DOMAINS, "rank_spearman_halves", None, RARE, reason="one piece")]  # fmt: skip
        alike = [Metric(DOMAINS, f"rank_spearman{of}", r, RARE, ci_low=r - 0.1, ci_high=r + 0.1)
                 for of, r in (("", 0.8), ("_halves", 0.7))]  # fmt: skip
        influence = {"mean_abs_rare": 1 / RANKS["rare"], "mean_abs_common": 1 / RANKS["rare"]}
        base = {"step": [step] * NEURONS, "layer": [5] * NEURONS, **influence}
        domain_neurons = [pl.DataFrame({**base, "domain": [name] * NEURONS}) for name in ("law", "gospel")]
        tables = StepTables(
            metric_frame(rows, step, step),
            pl.DataFrame({**base, "neuron": range(NEURONS), "rank": RANKS["rare"]}),
            pl.DataFrame({"step": [step]}),
            domains=domain_frame({"law": [*flat, *law], "gospel": [*rows, *alike]}, step, step),
            domain_neurons=pl.concat(domain_neurons),
        )
        write_step(run, step, record(step, m=str(step)), tables)
    return run


def test_each_text_has_its_own_numbers_and_verdicts(tmp_path: Path) -> None:
    main, law, gospel = domain_rows(planted(tmp_path / "run"))
    assert [row.domain for row in (main, law, gospel)] == [None, "law", "gospel"]
    assert (main.targets, law.targets, gospel.targets) == (200, 120, 300)
    assert main.kinds is None and law.kinds == KINDS
    assert main.spearman is None and law.spearman == Estimate(0.5, 0.4, 0.6)
    assert law.between_halves == Undefined("one piece")
    assert law.loss == Estimate(3.25, 3.0, 3.5)
    assert law.excess == Estimate(-0.5, -0.9, -0.1) and gospel.excess == main.excess
    assert main.verdicts == gospel.verdicts == dict.fromkeys(BAND_CLAIMS, SUPPORTED)
    assert isinstance(law.verdicts, dict) and law.verdicts["three-regimes-rare"] == CONTRADICTED


def test_the_table_says_what_is_left_out_and_what_has_no_number(tmp_path: Path) -> None:
    run = planted(tmp_path / "run", steps=STEPS[:2])
    rows, text = domain_rows(run), io.StringIO()
    assert all(isinstance(row.verdicts, Undefined) and "fewer than 3" in row.verdicts.reason for row in rows)
    print_domains(rows, run.manifest.domains_left_out, Console(file=text, width=100))
    said = text.getvalue()
    assert "No verdicts: " in said and "domain code is left out with 7 rare positions: too few" in said
    one = LeftOutDomainRecord(rare_targets=1, reason="too few")
    assert left_out_line("code", one) == "domain code is left out with 1 rare position: too few"
    cells = dict(zip(DOMAIN_HEADERS, domain_cells(rows[1]), strict=True))
    shown = [cells[head] for head in ("domain", "positions", "types", "byte fragments")]
    assert shown == ["law", "120", "31", "0.25"]
    assert cells["ranks as in the main text: Spearman"] == "0.5 (0.4 to 0.6)"
    assert cells["between its halves"] == "undefined (one piece)"
    assert domain_cells(rows[0])[0] == "main text" and len(domain_cells(rows[0])) == len(DOMAIN_HEADERS)


@pytest.mark.parametrize("terminal", [True, False])
def test_no_word_of_the_table_is_broken_on_a_narrow_terminal_or_in_a_file(tmp_path: Path, terminal: bool) -> None:
    rows, text = domain_rows(planted(tmp_path / "run")), io.StringIO()
    print_domains(rows, {}, Console(file=text, width=80, force_terminal=terminal, color_system=None))
    lines = text.getvalue().splitlines()
    for cell in (DOMAIN_HEADERS[-2], "0.5 (0.4 to 0.6)", *domain_cells(rows[1])):
        assert any(cell in line for line in lines), cell


@pytest.mark.slow
def test_the_figure_has_a_curve_and_a_place_for_each_text(tmp_path: Path) -> None:
    shown = show(planted(tmp_path / "run"))
    figure = domains_figure(shown)
    assert not isinstance(figure, Undefined)
    curves, names, plateau, *_, ranks = figure.axes
    assert [line.get_label() for line in curves.get_lines()] == ["law", "gospel", "main text"]
    assert np.allclose(np.asarray(curves.get_lines()[0].get_ydata()), 1 / RANKS["rare"])
    assert [label.get_text() for label in plateau.get_yticklabels()] == ["main text", "law", "gospel"]
    legends = [names.get_legend(), *figure.legends]
    assert [[text.get_text() for text in legend.get_texts()] for legend in legends if legend] == [
        ["law", "gospel", "main text"],
        ["between halves of the domain's own text"],
    ]
    # Spearman's correlation with the main text, and what noise alone leaves of one: of `law` it is undefined
    marked = [(line.get_marker(), float(np.asarray(line.get_xdata())[0])) for line in ranks.get_lines()]
    assert [mark for mark in marked if mark[0] != "None"] == [("o", 0.5), ("o", 0.8), ("s", 0.7)]
    figure.draw_without_rendering()
    for ax in figure.axes:
        box = ax.title.get_window_extent()
        assert box.x1 <= figure.bbox.x1, ax.get_title(loc="left")
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text()}
    assert min(sizes) >= 7
    narrow = domains_figure(shown, 3.5)
    assert not isinstance(narrow, Undefined) and narrow.get_size_inches()[0] == 3.5


def test_a_notebook_has_the_frames(tmp_path: Path) -> None:
    frames = read_frames(planted(tmp_path / "run").path)
    assert set(frames.domains.collect()["domain"]) == {"law", "gospel"}
    assert frames.domain_neurons.collect().height == 2 * NEURONS * len(STEPS)
    summary = frames.domain_summary()
    assert summary["domain"].to_list() == [None, "law", "gospel"]
    law = summary.row(1, named=True)
    assert (law["spearman"], law["spearman_low"], law["between_halves"], law["types"]) == (0.5, 0.4, None, 31)
    assert law["three-regimes-rare"] == CONTRADICTED and law["plateau_at_edge"] is False
    rows = domain_rows(read_frames(tmp_path / "run").run)
    least = domain_summary([replace(rows[0], plateau=Estimate(0.25, 0.1, None, at_edge=True))]).row(0, named=True)
    assert (least["plateau"], least["plateau_high"], least["plateau_at_edge"]) == (0.25, None, True)


def test_a_run_without_domains_has_none_of_it(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", manifest().replace(classes={RARE: TokenClassRecord.model_validate(CLASSES[RARE])}))
    plain = pl.DataFrame({"step": [0]})
    write_step(run, 0, record(0, m="0"), StepTables(metric_frame(curve_rows(0), 0, 0), plain, plain))
    assert domain_rows(run) == [] and domain_summary([]).is_empty() and list(done_steps(run)) == [0]
    with pytest.raises(InputError, match="measures no domains"):
        read_frames(run.path).domains  # noqa: B018 - asked for to be refused


def test_a_step_without_its_domains_is_not_done_and_a_copy_has_them(tmp_path: Path) -> None:
    run = planted(tmp_path / "run")
    write_copy(run, STEPS[-1], 9, 900, "step9", "c", join)
    copied = pl.read_parquet(table_file(run, "domains", 9))
    assert set(copied["step"]) == {9} and set(copied["tokens_seen"]) == {900}
    table_file(run, "domains", STEPS[-1]).unlink()
    assert STEPS[-1] not in done_steps(run) and 9 in done_steps(run)
