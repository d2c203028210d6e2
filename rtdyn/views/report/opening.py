"""The five lines in words that a page opens with, and where its claims were published."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rtdyn.counted import counted, plural
from rtdyn.judge.scorecard import ClaimRow
from rtdyn.judge.verdict import CONTRADICTED, SUPPORTED, UNDETERMINED
from rtdyn.names import COMMON, RARE, position_by
from rtdyn.undefined import Undefined
from rtdyn.views.report.run_tables import RunTables
from rtdyn.views.terminal.scorecard import place, targets_text

SOURCES = {"[DS]": "https://arxiv.org/abs/2509.21163"}
"""Where the papers lie whose short names `docs/methods.md` defines."""
QUESTION = (
    "Do neurons of the final MLP specialise on rare tokens: which, how many, how, and from which step of training on?"
)
QUESTION_OF_WEIGHTS = "How heavy are the tails of the final MLP's input weights, and how do they change in training?"


def opening(shown: RunTables, claims: Sequence[ClaimRow] | Undefined) -> list[tuple[str, str]]:
    """Question, model and text, targets, what came out, what would decide the rest: a name and sentences each."""
    return [
        ("Question", QUESTION if shown.classes else QUESTION_OF_WEIGHTS),
        ("Model and text", f"{_model(shown)} {_text(shown)}"),
        (plural(_position(shown)).capitalize(), _targets(shown)),
        ("What came out", f"No scorecard: {claims.reason}." if isinstance(claims, Undefined) else _verdicts(claims)),
        ("What would decide the rest", _deciding(claims)),
    ]


def published(source: str) -> list[tuple[str, str]]:
    """A claim's source in parts of text and address, which is empty where the part is no link."""
    parts = re.split(r"(\[\w+\] §[\d.]+)", source)
    return [(part, SOURCES.get(part.split(" ")[0], "")) for part in parts if part]


def _model(shown: RunTables) -> str:
    if len(shown.steps) == 1:
        steps = f"step {shown.steps[0]:,} alone"
    else:
        steps = f"{counted(len(shown.steps), 'step')} from {shown.steps[0]:,} to {shown.steps[-1]:,}"
    left_out = f", {len(shown.left_out)} of them left out of trajectories" if shown.left_out else ""
    return f"{shown.run.manifest.suite}, {steps}{left_out}."


def _text(shown: RunTables) -> str:
    text = shown.run.manifest.evaluation
    if text is None:
        return "No text is recorded."
    piece = f"independent {text.cluster_unit.removesuffix('s')}"
    return (
        f"The text is {text.corpus}: {counted(text.tokens, 'token')} in {counted(text.windows, 'window')}, of "
        f"{counted(text.clusters, piece)}."
    )


def _position(shown: RunTables) -> str:
    return position_by(shown.run.manifest.config.get("class_by"))


def _targets(shown: RunTables) -> str:
    classes = shown.run.manifest.classes
    if not classes:
        return "No token classes are recorded." if shown.classes else "None: weights alone were analysed."
    return " ".join(
        f"{name.capitalize() if name in (RARE, COMMON) else name}: {counted(c.measured, _position(shown))} of "
        f"{counted(c.types, 'token type')}, "
        f"frequency ranks {c.ranks[0]:,} to {c.ranks[1]:,}."
        for name, c in classes.items()
    )


def _verdicts(claims: Sequence[ClaimRow]) -> str:
    """How many verdicts there are of each kind, and which claims were supported or contradicted."""
    counts = {v: [row for row in claims if row.verdict == v] for v in (SUPPORTED, CONTRADICTED, UNDETERMINED)}
    said = ", ".join(f"{len(rows) or 'none'} {verdict}" for verdict, rows in counts.items())
    lines = [f"Of {counted(len(claims), 'verdict')} on claims at step {claims[0].step:,}: {said}."]
    for verdict in (SUPPORTED, CONTRADICTED):
        if counts[verdict]:
            lines.append(f"{verdict.capitalize()}: {'; '.join(_sentences(counts[verdict]))}.")
    return " ".join(lines)


def _sentences(rows: Sequence[ClaimRow]) -> list[str]:
    """What is claimed, each once, with all its layers or matrices."""
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row.text, []).append(place(row))
    # a claim that is judged of earlier layers too names the last one by no number
    return [
        text + (f" ({', '.join(of or 'last layer' for of in named)})" if any(named) else "")
        for text, named in places.items()
    ]


def _deciding(claims: Sequence[ClaimRow] | Undefined) -> str:
    if isinstance(claims, Undefined):
        return "Claims are judged on at least three distinct steps with influences."
    still_open = [row for row in claims if row.verdict == UNDETERMINED]
    if not still_open:
        return "Nothing: every claim has its verdict."
    decidable = [row for row in still_open if row.targets_to_decide is not None]
    lines = [f"{sentence(row)}: {targets_text(row)}, if the values stay." for row in decidable]
    if others := len(still_open) - len(decidable):
        which = counted(others, "other open claim" if decidable else "open claim")
        lines.append(f"For {which} no number of rare positions is known to decide; the list below the claims says why.")
    return " ".join(lines)


def verdicts_by_run(claims: Sequence[Sequence[ClaimRow] | Undefined]) -> list[tuple[str, list[str]]]:
    """Each claim in words, and its verdict in each run; a dash where a run has none.

    A claim that is judged for two layers has them counted from the end, as models of several sizes share them.
    """
    places: dict[tuple[str, str | None, str | None, int], tuple[str, dict[int, str]]] = {}
    for run, rows in enumerate([] if isinstance(of_run, Undefined) else of_run for of_run in claims):
        final = max((row.layer for row in rows if row.layer is not None), default=0)
        for row in rows:
            before = 0 if row.layer is None else final - row.layer
            from_end = {0: "last layer", 1: "layer before"}
            layer = "" if row.layer is None else from_end.get(before, f"{before} layers before the last")
            named = ", ".join(filter(None, (layer, row.matrix, row.heads)))
            said = row.text + (f" ({named})" if named else "")
            places.setdefault((row.claim, row.matrix, row.heads, before), (said, {}))[1][run] = row.verdict
    return [(said, [verdicts.get(run, "—") for run in range(len(claims))]) for said, verdicts in places.values()]


def sentence(row: ClaimRow) -> str:
    """What is claimed, and the layer or matrix where it is judged for each."""
    return _sentences([row])[0]
