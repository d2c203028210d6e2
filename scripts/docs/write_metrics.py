"""Writes docs/metrics.md from `rtdyn.store.definitions`.

python scripts/docs/write_metrics.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rtdyn.names import ANALYSES, DOMAINS, LAYERS
from rtdyn.store.definitions import COLUMNS, METRICS, Definition

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
METHODS = PAGE.with_name("methods.md")

HEAD = """# Metrics

This page is made by `scripts/docs/write_metrics.py` from `rtdyn/store/definitions.py`. It defines every metric and
column that a run stores. [Methods](methods.md) has the definitions in full, and the [glossary](glossary.md) the terms.

- 'Corrected' numbers are [without the winner's curse](intervals.md#without-the-winners-curse). Their `_plain` ones are
  as the fit has them.
- A metric's row names the null that its `null_mean`, `null_sd` and `p_value` belong to. There is a row for each null.
- `_gate` and `_up` end the names where an MLP has two input matrices. `_common` numbers are those at common targets.
- The column 'interval' says whether rows may have a 95 % interval.
"""
LAYER_GROUPS = """The names of `groups`, `dimensionality`, `modularity`, `routing` and `heavytail` stand among `layers`
too, but for `matched_positions`. So does `null_space_share`. They are of the
[groups of a layer](layers.md#groups-of-a-layer).
"""
TABLES = {
    "metrics": "`metrics/step=*.parquet` has a row for each number and null.",
    "neurons": "`neurons/step=*.parquet` has a row for each neuron. `<class>` is `rare`, `common` or another band.",
    "windows": "`windows/step=*.parquet` has sums over windows and over deciles of frequency.",
    "curves": "`curves/step=*.parquet` has the lines that figures draw.",
    "domains": "`domains/step=*.parquet` has the rows of [further texts](domains.md), named as those of `metrics`.",
    "domain_neurons": "`domain_neurons/step=*.parquet` has a row for each further text and neuron.",
}


def anchors() -> dict[str, str]:
    """The anchor of each numbered section of docs/methods.md."""
    found = {}
    for line in METHODS.read_text().splitlines():
        if match := re.match(r"#+ ((\d+(?:\([a-z]\))?)\.? .+)", line):
            found[match[2]] = re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", match[1].lower()))
    return found


def lines_of(definitions: Sequence[Definition], metrics: bool, links: dict[str, str]) -> Iterator[str]:
    """A table; metrics: with nulls and intervals."""
    heads = ["name", "unit", "what it is", *(["null", "interval"] if metrics else []), "methods"]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + " --- |" * len(heads)
    for d in definitions:
        names = ", ".join(f"`{name}`" for name in d.names)
        nulls = [", ".join(f"`{null}`" for null in d.nulls), "yes" if d.interval else ""] if metrics else []
        meaning = d.meaning.replace("|", "\\|")
        cells = [names, d.unit, meaning, *nulls, f"[§{d.section}](methods.md#{links[d.section]})"]
        yield "| " + " | ".join(cells) + " |"


def page() -> str:
    """The whole page."""
    links, parts = anchors(), [HEAD, "## Metrics by analysis\n"]
    of_last = {d for analysis, definitions in METRICS.items() if analysis != LAYERS for d in definitions}
    for analysis in ("capture", *ANALYSES[:2], "groups", *ANALYSES[2:], LAYERS, DOMAINS):
        own = [d for d in METRICS[analysis] if analysis != LAYERS or d not in of_last]
        parts += [f"### {analysis}\n", "\n".join(lines_of(own, True, links)) + "\n"]
        if analysis == LAYERS:
            parts.append(LAYER_GROUPS)
    parts.append("## Columns by table\n")
    for table, says in TABLES.items():
        parts += [f"### {table}\n", says + "\n", "\n".join(lines_of(COLUMNS[table], False, links)) + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
