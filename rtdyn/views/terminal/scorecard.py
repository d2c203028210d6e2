"""The scorecard in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rtdyn.counted import counted
from rtdyn.judge.bands import band_rows
from rtdyn.judge.claims import CLAIMS
from rtdyn.judge.domains import domain_rows
from rtdyn.judge.observations import read_judged
from rtdyn.judge.scorecard import ClaimRow, judged
from rtdyn.judge.scorecard_frame import as_json, store_claims
from rtdyn.judge.structure import unreached_layers
from rtdyn.judge.trajectories import trajectories
from rtdyn.judge.verdict import CONTRADICTED, SUPPORTED, UNDETERMINED, Check
from rtdyn.say_plain import say_plain
from rtdyn.sweep.paper import PAPER, SEQUENCES
from rtdyn.text.clusters import FEW_CLUSTERS
from rtdyn.views.number import number, p_value
from rtdyn.views.terminal.bands import print_bands
from rtdyn.views.terminal.domains import print_domains

CELLS = ("claim", "statistic", "value", "null", "region", "verdict", "emerged", "decided by")
_HOLDS = "Such a number holds if the values stay. "
_MORE = (
    "`rtdyn track` with --rare-targets N measures N of them, as another run; `rtdyn plan` with the same options says "
    "what that costs."
)
_MORE_BY_OWN = f"The papers' design measures {SEQUENCES} windows, whatever they hold. rtdyn's own design measures more."

HEADS_NOTE = (
    "Where a claim says `own heads` or `heads below`, the neurons are those of its layer, which is before the last. "
    "Its own heads are the attention heads of that layer; the heads below are those of the layer before it. Other "
    "claims about heads are on the last layer's neurons, and their layer is that of the heads."
)
"""What stands below a scorecard that judges heads of layers before the last."""


def unreached_note(layers: Sequence[int]) -> str:
    """Why no claim is judged of the own heads of these layers' neurons; empty for none."""
    if not layers:
        return ""
    *others, last = map(str, layers)
    which = f"layers {', '.join(others)} and {last}" if others else f"layer {last}"
    return (
        f"No claim is judged of what the own heads of {which} do to the neurons there. With a parallel residual "
        "attention and MLP read the same stream, so that these heads cannot reach them."
    )


def claim_cells(row: ClaimRow) -> dict[str, str]:
    """The row as it is shown, by CELLS."""
    shown = row.checks[0]
    # where the statistic has no p of its own, a gate's is what speaks for it
    gates = (c for c in row.checks if c.role != "beside")
    null = _null(shown, next((c for c in (shown, *gates) if c.p_value is not None), shown))
    group = f"{row.group}, standing in for the plateau" if row.is_stand_in else row.group
    statistic = shown.statistic + (f" ({group})" if group else "")
    cells = (_label(row), statistic, _value(shown), null, _claimed(row), row.verdict, _emerged(row), _decided_by(row))
    return dict(zip(CELLS, cells, strict=True))


def print_claims(rows: list[ClaimRow], console: Console, design: str = "", unreached: Sequence[int] = ()) -> None:
    """The scorecard as a table, and below it why verdicts are not `supported`.

    design: the run's, of its manifest. unreached: what `unreached_layers` gives.
    """
    title = f"Claims at step {rows[0].step}, intervals 95 %" if rows else "No claims"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("claim and statistic")
    table.add_column("value, null and region")
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        style = {SUPPORTED: "green", CONTRADICTED: "red"}.get(row.verdict, "yellow")
        shown = claim_cells(row)
        lines = {"value": "", "null": "null: ", "region": "claimed: "}
        table.add_row(
            f"[bold]{escape(shown['claim'])}[/bold]\n{escape(shown['statistic'])}",
            escape("\n".join(said + shown[cell] for cell, said in lines.items() if shown[cell])),
            "\n".join(filter(None, (f"[{style}]{row.verdict}[/{style}]", shown["emerged"], shown["decided by"]))),
        )
    console.print(table)
    say = partial(say_plain, console)
    for row in rows:
        why = f" {row.verdict}: {row.reason}." if row.reason else ""
        say(f"{_label(row)}: {row.text} ({row.source}).{why}{_after(targets_text(row))}")
    if any(row.heads for row in rows):
        say(HEADS_NOTE)
    if unreached:
        say(unreached_note(unreached))
    if any(row.targets_to_decide is not None for row in rows):
        say(_more_targets(design))


def _more_targets(design: str) -> str:
    """How one comes to more rare positions."""
    return _HOLDS + (_MORE_BY_OWN if design == PAPER else _MORE)


def targets_text(row: ClaimRow) -> str:
    """How many rare positions would decide an open claim, or why none would; empty for a claim that is decided."""
    if row.verdict != UNDETERMINED:
        return ""
    if row.targets_to_decide is None:
        return f"No number of rare positions is known to decide it: {row.targets_reason}"
    return _targets(row)


def _targets(row: ClaimRow) -> str:
    assert row.targets_to_decide is not None
    wanted = _rounded_up(row.targets_to_decide)
    return f"about {wanted:,} rare positions would decide it, there are {row.rare_targets:,}"


def open_claims(rows: list[ClaimRow], design: str = "") -> list[str]:
    """Which claims are open, and how many rare positions would decide each, in lines; none where all are decided."""
    still_open = [row for row in rows if row.verdict == UNDETERMINED]
    if not still_open:
        return []
    decidable = [row for row in still_open if row.targets_to_decide is not None]
    others = [_label(row) for row in still_open if row.targets_to_decide is None]
    lines = [f"{len(still_open)} of {len(rows)} verdicts on claims are {UNDETERMINED} at step {rows[0].step}."]
    lines += [f"{_label(row)}: {_targets(row)}" for row in decidable]
    if others:
        lines.append(f"No number of rare positions is known to decide {'; '.join(others)} (`rtdyn claims` says why).")
    return [*lines, _more_targets(design)] if decidable else lines


def _after(text: str) -> str:
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _decided_by(row: ClaimRow) -> str:
    return "" if row.targets_to_decide is None else f"about {_rounded_up(row.targets_to_decide):,}\nrare positions"


def _rounded_up(count: int) -> int:
    """To two figures: the number rests on widths that are estimates themselves."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit


def place(row: ClaimRow) -> str:
    """The layer, and the input matrix or heads, of a claim that is judged for each; empty for others."""
    return ", ".join(filter(None, ("" if row.layer is None else f"layer {row.layer}", row.matrix, row.heads)))


def _label(row: ClaimRow) -> str:
    return ", ".join(filter(None, (row.claim, place(row))))


def _value(check: Check) -> str:
    if check.value is None:
        return "undefined"
    shown = number(check.value, check.ci_low, check.ci_high, at_edge=check.at_edge)
    if check.clusters is None or check.clusters >= FEW_CLUSTERS:
        return shown
    return f"{shown}, only {counted(check.clusters, 'piece')} of text"


def _null(shown: Check, tested: Check) -> str:
    """The null of what is shown, in its units, and the p of what is tested."""
    parts = []
    if shown.null_centre is not None:
        sd = "" if shown.null_sd is None else f" (sd {shown.null_sd:.2g})"
        parts.append(f"{shown.null_centre:.3g}{sd}")
    if tested.p_value is not None:
        parts.append(f"p {p_value(tested.p_value)}")
    return " ".join(part for part in (tested.null or "", *parts) if part) if parts else ""


def _claimed(row: ClaimRow) -> str:
    """The region that is claimed, and what else is needed that is not met where the statistic lies in it."""
    shown, *others = row.checks
    needed = [
        c.statistic for c in others if c.role in ("decides", "for support", "for either") and c.verdict != SUPPORTED
    ]
    if shown.verdict != SUPPORTED or row.verdict != UNDETERMINED or not needed:
        return _margin(shown)
    lacking = "lacking: " + "; ".join(dict.fromkeys(needed))
    return f"{_margin(shown)}, {lacking}" if _margin(shown) else lacking


def _margin(check: Check) -> str:
    if check.margin_low is not None and check.margin_high is not None:
        return f"{check.margin_low:.3g} to {check.margin_high:.3g}"
    if check.margin_low is not None:
        return f"> {check.margin_low:.3g}"
    return "" if check.margin_high is None else f"< {check.margin_high:.3g}"


def _emerged(row: ClaimRow) -> str:
    if row.emerged is None:
        return ""
    after = "" if row.emerged_after is None else f"\n(after {row.emerged_after})"
    return f"since {row.emerged}{after}"


def claims(path: Path, machine: bool, console: Console) -> list[ClaimRow]:
    """`rtdyn claims RUN [--json]`: prints the scorecard of the run at `path`, then stores it beside the tables.

    machine: print a list for machines instead. Raises InputError if there is no run, fewer than three distinct steps,
    or no place to write.
    """
    run = read_judged(path)
    metrics = trajectories(run)
    rows = judged(metrics, run.manifest.classes, CLAIMS)
    if machine:
        sys.stdout.write(json.dumps(as_json(rows), allow_nan=False) + "\n")
    else:
        print_claims(rows, console, run.manifest.design, unreached_layers(metrics))
        print_bands(band_rows(run), console)
        print_domains(domain_rows(run), run.manifest.domains_left_out, console)
    store_claims(run, rows)
    return rows
