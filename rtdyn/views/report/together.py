"""What a page says of runs that differ in seed alone, or in size: the numbers of the figures of them, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtdyn.judge.seeds import differ_in_seed_alone
from rtdyn.judge.sizes import differ_in_size
from rtdyn.views.number import number
from rtdyn.views.report.panels import PANELS, JudgedPanels
from rtdyn.views.report.plots.seeds import seed_lines, seed_panels, seed_table
from rtdyn.views.report.plots.sizes import size_lines, sizes_of
from rtdyn.views.report.run_tables import RunTables


@dataclass(frozen=True)
class Together:
    """A section of the page."""

    title: str
    headers: tuple[str, ...]
    """Of the columns; the first two name a row."""
    rows: list[list[str]]
    said: list[str]
    """Sentences below the table."""


def together(runs: Sequence[RunTables], judged: Sequence[JudgedPanels]) -> list[Together]:
    """The sections of these runs; none where they are not of one kind, or share no metric at a step.

    judged: each run's lines, from `judged_panels`.
    """
    manifests = [run.run.manifest for run in runs]
    sections = []
    if differ_in_seed_alone(manifests):
        sections.append(_seeds(runs, judged))
    if differ_in_size(manifests):
        sections.append(_sizes(runs, judged))
    return [section for section in sections if section.rows]


def _seeds(runs: Sequence[RunTables], judged: Sequence[JudgedPanels]) -> Together:
    over = seed_panels(judged)
    headers = ("metric", "line", "at step", "median", "quartiles", "emerged, of so many runs", "at steps")
    rows = [
        [
            ", ".join(filter(None, (row["metric"], row["unit"]))),
            row["line"],
            f"{row['step']:,}",
            number(row["median"]),
            f"{number(row['quartile_low'])} to {number(row['quartile_high'])}",
            f"{row['emerged_runs']} of {row['runs']}",
            row["emergence_steps"].replace(" ", ", ") or "—",
        ]
        for row in seed_table(runs, over).iter_rows(named=True)
    ]
    said = ["At the last step that all runs share. Quartiles are of the runs, and no error of a run's own."]
    return Together("Seeds", headers, rows, [*said, *(f"{line}." for line in seed_lines(runs, over))])


def _sizes(runs: Sequence[RunTables], judged: Sequence[JudgedPanels]) -> Together:
    by_size = [runs[i].label for i in np.argsort(sizes_of(runs))]
    rows = []
    for panel in PANELS:
        for label, _, tokens, points in size_lines(panel, runs, judged):
            values = [number(value, *((low, high) if np.isfinite(low) else ())) for value, low, high in points]
            rows.append([panel.full_title, label, f"{tokens:.3g}", *values])
    said = ["After the largest number of tokens that all runs have seen. In brackets: 95 % intervals."]
    return Together("Sizes", ("metric", "line", "tokens", *by_size), rows, said)
