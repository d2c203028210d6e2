"""Several bands of rare tokens side by side: planted curves, verdicts and rankings."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy import stats
from store.test_run import manifest, record
from support.planted_scorecard import STEPS, measured

from rtdyn.errors import InputError
from rtdyn.judge.bands import BAND_CLAIMS, Estimate, band_rows
from rtdyn.judge.verdict import CONTRADICTED, SUPPORTED
from rtdyn.store.manifest import TokenClassRecord
from rtdyn.store.run import Run, open_run, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame
from rtdyn.undefined import Undefined
from rtdyn.views.report.figures import figures
from rtdyn.views.report.plots.bands import bands_figure
from rtdyn.views.report.run_tables import show
from rtdyn.views.terminal.bands import BAND_HEADERS, band_cells, print_bands

NEURONS = 200
RANKS = {"rare": np.arange(NEURONS) + 1.0, "rare_5": np.random.default_rng(0).permutation(NEURONS) + 1.0}


def of_class(first: int, targets: int, band: str) -> TokenClassRecord:
    return TokenClassRecord(band=band, ranks=(first, 1000), types=1001 - first, positions=targets, measured=targets)


CLASSES = {"rare": of_class(851, 200, "paper-text"), "rare_5": of_class(951, 60, "5%"),
           "common": TokenClassRecord(band="", ranks=(1, 850), types=850, positions=9, measured=9)}  # fmt: skip


def planted(path: Path, steps: tuple[int, ...] = STEPS, classes: tuple[str, ...] = tuple(CLASSES)) -> Run:
    """A run whose narrow band has the rare class's curve turned upside down, with a power law of its own."""
    run = open_run(path, manifest().replace(classes={name: CLASSES[name] for name in classes}))
    for step in steps:
        rows = [row for row in measured(step) if row.analysis == "regimes"]
        for row in [row for row in rows if row.token_class == "rare" and not row.metric.startswith("contrast")]:
            other = replace(row, token_class="rare_5")
            if row.metric == "kappa":
                other = replace(other, value=0.9, ci_low=0.8, ci_high=1.0)
            if row.metric == "excess":
                other = replace(other, value=-0.5, ci_low=-0.9, ci_high=-0.1)
            if row.metric == "plateau_fraction" and step == steps[-1]:
                other = Metric("regimes", "plateau_fraction", None, token_class="rare_5", layer=5, reason="no fit")
            rows.append(other)
        neurons = {"step": [step] * NEURONS, "layer": [5] * NEURONS, "rank": RANKS["rare"],
                   "rank_rare_5": RANKS["rare_5"], "mean_abs_rare": 1 / RANKS["rare"],
                   "mean_abs_rare_5": 1 / RANKS["rare_5"], "mean_abs_common": 1 / RANKS["rare"]}  # fmt: skip
        tables = StepTables(metric_frame(rows, step, step), pl.DataFrame(neurons), pl.DataFrame({"step": [step]}))
        write_step(run, step, record(step, m=str(step)), tables)
    return run


def test_each_band_has_its_own_curve_verdicts_and_ranking(tmp_path: Path) -> None:
    narrow, rare = band_rows(planted(tmp_path / "run"))
    assert (narrow.token_class, narrow.band, narrow.types, narrow.targets) == ("rare_5", "5%", 50, 60)
    assert (narrow.share, rare.share) == (pytest.approx(0.05), pytest.approx(0.15))
    assert narrow.kappa == Estimate(0.9, 0.8, 1.0) and rare.kappa == Estimate(0.5, 0.4, 0.6)
    assert narrow.plateau == Undefined("no fit") and rare.plateau == Estimate(0.01, 0.0075, 0.0125)
    assert isinstance(rare.verdicts, dict) and isinstance(narrow.verdicts, dict)
    assert rare.verdicts == dict.fromkeys(BAND_CLAIMS, SUPPORTED)
    assert narrow.verdicts["three-regimes-rare"] == CONTRADICTED
    assert rare.spearman == Estimate(1.0, 1.0, 1.0) and isinstance(narrow.spearman, Estimate)
    assert narrow.spearman.value == pytest.approx(stats.spearmanr(RANKS["rare"], RANKS["rare_5"]).statistic)
    low, high = narrow.spearman.low, narrow.spearman.high
    assert low is not None and high is not None and low < narrow.spearman.value < high
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(NEURONS - 3), rel=0.03)


def test_a_run_of_few_steps_has_numbers_and_no_verdicts(tmp_path: Path) -> None:
    rows = band_rows(planted(tmp_path / "run", steps=(4,)))
    assert all(isinstance(row.verdicts, Undefined) and "fewer than 3" in row.verdicts.reason for row in rows)
    text = io.StringIO()
    print_bands(rows, Console(file=text, width=100))
    assert "No verdicts: " in text.getvalue() and "0.9 (0.8 to 1)" in text.getvalue()


def test_one_band_alone_has_no_table_and_no_figure(tmp_path: Path) -> None:
    run = planted(tmp_path / "run", classes=("rare", "common"))
    assert band_rows(run) == [] and isinstance(bands_figure(show(run)), Undefined)
    text = io.StringIO()
    print_bands([], Console(file=text))
    assert text.getvalue() == ""
    with pytest.raises(InputError, match="no finished step"):
        band_rows(open_run(tmp_path / "empty", manifest()))


def test_the_table_and_the_figure_show_every_band(tmp_path: Path) -> None:
    shown = show(planted(tmp_path / "run"))
    rows = band_rows(shown.run)
    cells = [dict(zip(BAND_HEADERS, band_cells(row), strict=True)) for row in rows]
    assert [c["band"] for c in cells] == ["rare_5 (5%)", "rare (paper-text)"]
    assert cells[0]["plateau, share of neurons"] == "undefined (no fit)" and cells[1]["plateau-size"] == SUPPORTED
    assert "bands" in figures([shown], [{}], [[64]])
    figure = bands_figure(shown)
    assert not isinstance(figure, Undefined)
    drawn = {ax.get_title(loc="left"): sorted(x for line in ax.lines if line.get_marker() != "None"
                                              for x in np.atleast_1d(line.get_xdata()))
             for ax in figure.axes}  # fmt: skip
    assert drawn.pop("plateau, share of neurons") == [pytest.approx(0.15)]
    assert all(places == pytest.approx([0.05, 0.15]) for places in drawn.values()) and len(drawn) == 3
