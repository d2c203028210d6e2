"""The table of the most influential neurons for others to set: as CSV in full, and as LaTeX as it is shown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rtdyn.files import replace_file
from rtdyn.undefined import Undefined
from rtdyn.views.report.plots.influence import NO_INFLUENCE
from rtdyn.views.report.plots.neurons import NONE, TABLE_COLUMNS, cells, neuron_rows
from rtdyn.views.report.run_tables import RunTables

NEURON_TABLE = "neuron-table"
_ERRORS = {"influence": "influence_rare", "common": "influence_common", "delta": "delta_rare",
           "mediation": "mediated_share"}  # fmt: skip
"""Numbers that have half of their 95 % interval beside them, with their names in the CSV."""
_TEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "Δ": r"$\Delta$", NONE: "--", "-": "$-$"}


def neuron_files(shown: RunTables, step: int, folder: Path) -> list[Path] | Undefined:
    """Writes the table of a step in both forms, each whole or not at all; or why there is none."""
    if not shown.classes:
        return NO_INFLUENCE
    rows = neuron_rows(shown, step)
    files = []
    for kind, text in (("csv", _csv(rows, step)), ("tex", _latex([cells(row) for row in rows]))):
        file = folder / f"{NEURON_TABLE}.{kind}"
        replace_file(file, partial(_write, text))
        files.append(file)
    return files


def _write(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")


def _csv(rows: Sequence[dict[str, Any]], step: int) -> str:
    """A row a neuron; intervals in columns of their own; what is not known is empty."""
    lines = []
    for row in rows:
        line: dict[str, Any] = {"step": step}
        for key, value in row.items():
            if key not in _ERRORS:
                line[key] = value
                continue
            number, reach = value or (None, None)
            ends = (None, None) if number is None or not reach else (number - reach, number + reach)
            name = _ERRORS[key]
            line |= {name: number, f"{name}_low": ends[0], f"{name}_high": ends[1]}
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _latex(rows: Sequence[Sequence[str]]) -> str:
    """A tabular with the lines of the package booktabs, without columns that hold nothing."""
    filled = [i for i in range(len(TABLE_COLUMNS)) if any(row[i] != NONE for row in rows)]
    lines = [[_tex(row[i]) for i in filled] for row in (TABLE_COLUMNS, *rows)]
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    parts = [rf"\begin{{tabular}}{{{'r' * len(filled)}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*parts, r"\end{tabular}", ""])


def _tex(cell: str) -> str:
    return "".join(_TEX.get(character, character) for character in cell)
