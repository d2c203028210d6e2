"""Our design and the papers' side by side, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import polars as pl
from rich.console import Console

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.judge.bands import Estimate
from rtdyn.judge.designs import DesignComparison, DesignRow, VerdictRow, compare_designs
from rtdyn.many import Outcome
from rtdyn.say_plain import say_plain
from rtdyn.store.run import Run, done_steps
from rtdyn.sweep.paper import DESIGNS, OWN, PAPER
from rtdyn.undefined import Undefined
from rtdyn.views.number import DIGITS, number
from rtdyn.views.terminal.fitted import print_fitted

ROW_HEADERS = ("statistic", "whose", "published", "papers' design", "rtdyn's design", "change")
VERDICT_HEADERS = ("claim", "papers' design", "rtdyn's design", "turns")
DESIGN_NOTE = (
    "Each row is one statistic in both runs, so that the designs alone differ: text, number of positions, and what is "
    "called rare. `change` is rtdyn's design minus the papers', and has no interval; beside ≤ or ≥ there is none. A "
    "number without an interval has no known error. The interval of a difference from sets is the spread "
    "of the sets. That of α is of the weights, and others are of the text. Groups are the 1 % most influential "
    "neurons, at least 32; the papers set theirs by hand to 30 to 50. What the papers published is of other models and "
    "steps."
)


def pair_of(runs: Sequence[Run]) -> tuple[Run, Run] | None:
    """Our run and the papers', where these two of one suite are all there are."""
    by_design = {run.manifest.design: run for run in runs}
    same = len({(run.manifest.suite, run.manifest.location) for run in runs}) == 1
    return (by_design[OWN], by_design[PAPER]) if same and len(runs) == 2 and set(by_design) == set(DESIGNS) else None


def row_cells(row: DesignRow) -> dict[str, str]:
    """The row as it is shown, by ROW_HEADERS."""
    place = _place(row.layer, row.matrix)
    change = "" if row.change is None else f"{row.change:+.{DIGITS}g}"
    statistic = f"{row.statistic.claim}{place}: {row.statistic.text}"
    cells = (statistic, row.statistic.whose, row.statistic.published, _shown(row.paper), _shown(row.own), change)
    return dict(zip(ROW_HEADERS, cells, strict=True))


def verdict_cells(row: VerdictRow) -> dict[str, str]:
    """The row as it is shown, by VERDICT_HEADERS."""
    claim = f"{row.claim}{_place(row.layer, row.matrix or row.heads)}"
    cells = (claim, row.paper, row.own, "turns" if row.turns else "")
    return dict(zip(VERDICT_HEADERS, cells, strict=True))


def undefined_reasons(comparison: DesignComparison) -> list[str]:
    """Why statistics are undefined, by which design, each reason once with the metrics it is of."""
    named: dict[tuple[str, str], dict[str, None]] = {}
    for row in comparison.rows:
        paper, own = (e.reason if isinstance(e, Undefined) else "" for e in (row.paper, row.own))
        of = [("either design", own)] if paper == own else [("the papers' design", paper), ("rtdyn's design", own)]
        for design, reason in of:
            if reason:
                named.setdefault((design, reason), {})[f"{row.statistic.metric}{_place(row.layer, row.matrix)}"] = None
    return [f"undefined by {design}: {reason} ({'; '.join(what)})" for (design, reason), what in named.items()]


def verdicts_in_words(comparison: DesignComparison) -> str:
    """How many verdicts turn, or why there are none."""
    if isinstance(comparison.verdicts, Undefined):
        return f"No verdicts: {comparison.verdicts.reason}."
    turned = [row for row in comparison.verdicts if row.turns]
    of = f"of {counted(len(comparison.verdicts), 'verdict')} on the published claims"
    if not turned:
        return f"None {of} turns with the design."
    return f"{len(turned)} {of} turn{'s' if len(turned) == 1 else ''} with the design."


def design_table(comparison: DesignComparison) -> pl.DataFrame:
    """The statistics for machines: a row each, with either design's value and interval, or the reason why not.

    `paper_at_edge` and `own_at_edge`: whether the value is the last that the fit can find, and may lie beyond.
    """

    def numbers(name: str, estimate: Estimate | Undefined) -> dict[str, float | str | bool | None]:
        known = None if isinstance(estimate, Undefined) else estimate
        return {
            name: None if known is None else known.value,
            f"{name}_low": None if known is None else known.low,
            f"{name}_high": None if known is None else known.high,
            f"{name}_at_edge": None if known is None else known.at_edge,
            f"{name}_reason": estimate.reason if isinstance(estimate, Undefined) else None,
        }

    records = [
        {
            "step": comparison.step,
            "claim": row.statistic.claim,
            "statistic": row.statistic.text,
            "whose": row.statistic.whose,
            "metric": row.statistic.metric,
            "layer": row.layer,
            "matrix": row.matrix,
            "published": row.statistic.published,
            **numbers("paper", row.paper),
            **numbers("own", row.own),
            "change": row.change,
        }
        for row in comparison.rows
    ]
    return pl.DataFrame(records, infer_schema_length=None)


def print_comparison(comparison: DesignComparison, suite: str, console: Console) -> None:
    """Both tables, and what is to be said of them."""
    title = f"{suite} at step {comparison.step:,}: the papers' design and rtdyn's, intervals 95 %"
    print_fitted(title, [row_cells(row) for row in comparison.rows], console)
    if not isinstance(comparison.verdicts, Undefined):
        print_fitted("Verdicts by design", [verdict_cells(row) for row in comparison.verdicts], console)
    for text in (verdicts_in_words(comparison), *undefined_reasons(comparison), DESIGN_NOTE):
        say_plain(console, text)


def print_designs(outcomes: Sequence[Outcome], console: Console) -> None:
    """The comparison of each suite that both designs measured. outcomes: by suite, in the order of DESIGNS."""
    say = partial(say_plain, console)
    for outcome in outcomes:
        if outcome.failure is not None:
            say(f"{outcome.label} failed: {outcome.failure}")
    for own, paper in zip(outcomes[::2], outcomes[1::2], strict=True):
        if own.run is None or paper.run is None or not (done_steps(own.run) and done_steps(paper.run)):
            say(f"No comparison of {own.label} and {paper.label}: one of them holds no step.")
            continue
        try:
            comparison = compare_designs(own.run, paper.run)
        except InputError as error:
            say(f"No comparison: {error}")
            continue
        print_comparison(comparison, own.run.manifest.suite, console)
        say(f"`rtdyn report {own.run.path} {paper.run.path}` puts both on one page")


def _shown(estimate: Estimate | Undefined) -> str:
    if isinstance(estimate, Undefined):
        return "undefined"
    return number(estimate.value, estimate.low, estimate.high, at_edge=estimate.at_edge)


def _place(layer: int | None, part: str | None) -> str:
    """part: the input matrix, or whose heads."""
    return "".join(f", {of}" for of in ("" if layer is None else f"layer {layer}", part or "") if of)
