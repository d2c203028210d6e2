"""What `rtdyn check` found: a table, JUnit's XML, annotations of GitHub Actions."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rtdyn.files import replace_file
from rtdyn.judge.check import Comparison, Finding
from rtdyn.say_plain import say_plain

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON holds it; `excess` is null where a whole row or step is concerned."""
    return {
        "suite": comparison.suite,
        "findings": [
            {**asdict(f), "excess": f.excess if math.isfinite(f.excess) else None} for f in comparison.findings
        ],
        "rows": len(comparison.rows),
        "held": comparison.held,
        "notes": list(comparison.notes),
    }


def print_comparison(comparison: Comparison, limit: int, console: Console) -> None:
    """The findings, at most `limit` of them (0 for all), and how tightly the run's numbers were held."""
    say = partial(say_plain, console)
    shown = comparison.findings[: limit or None]
    if shown:
        table = Table(title=_count(len(comparison.findings), "finding"), title_justify="left", show_lines=True)
        table.add_column("step")
        table.add_column("metric, baseline → now, and why that is a finding", overflow="fold")
        for f in shown:
            lines = (f.metric, f"{f.column or f.change}: {_numbers(f)}", f.why) if f.metric else (f.change, f.why)
            table.add_row(str(f.step), escape("\n".join(lines)))
        console.print(table)
    if len(shown) < len(comparison.findings):
        say(f"… and {len(comparison.findings) - len(shown)} more; --show 0 prints them all")
    for note in comparison.notes:
        say(f"note: {note}")
    rows, findings = _count(len(comparison.rows), "row"), _count(len(comparison.findings), "finding")
    say(f"{rows}, {_held(comparison.held)}: {findings}")


def github_annotations(comparison: Comparison, baseline: Path, limit: int) -> list[str]:
    """An `::error` line of GitHub Actions for each of the findings shown, and one for those that are not."""
    shown = comparison.findings[: limit or None]
    lines = [_annotation(f"step {f.step} {f.metric}".strip(), baseline, describe(f)) for f in shown]
    left = len(comparison.findings) - len(shown)
    return [*lines, _annotation("rtdyn check", baseline, _count(left, "more finding"))] if left else lines


def describe(f: Finding) -> str:
    """A finding in one line."""
    return f"{f.column or f.change}: {_numbers(f)}; {f.why}" if f.metric else f"{f.change}: {f.why}"


def _numbers(f: Finding) -> str:
    return " → ".join("none" if n is None else f"{n:.7g}" for n in (f.baseline, f.value))


def write_junit(comparison: Comparison, file: Path) -> None:
    """JUnit's XML: a case for each row compared and for each step that is missing or new, failed where it has findings.

    Raises InputError if `file` cannot be written.
    """
    failures: dict[tuple[int, str], list[Finding]] = defaultdict(list)
    for f in comparison.findings:
        failures[f.step, f.metric].append(f)
    cases = list(dict.fromkeys((*comparison.rows, *failures)))
    totals = {"tests": str(len(cases)), "failures": str(len(failures)), "errors": "0"}
    root = ElementTree.Element("testsuites", totals)
    group = ElementTree.SubElement(root, "testsuite", {"name": "rtdyn check", **totals})
    for step, name in cases:
        names = {"classname": f"{_xml(comparison.suite)}.step{step}", "name": _xml(name) or "the whole step"}
        case = ElementTree.SubElement(group, "testcase", names)
        if (step, name) in failures:
            lines = [_xml(describe(f)) for f in failures[step, name]]
            ElementTree.SubElement(case, "failure", {"message": lines[0]}).text = "\n".join(lines)
    ElementTree.indent(root)
    tree = ElementTree.ElementTree(root)
    replace_file(file, lambda aside: tree.write(aside, encoding="utf-8", xml_declaration=True))


def _annotation(title: str, file: Path, message: str) -> str:
    return f"::error title={_escaped(title, ':,')},file={_escaped(str(file), ':,')}::{_escaped(message)}"


def _escaped(text: str, further: str = "") -> str:
    for character in "%\r\n" + further:  # the percent sign first: the others become some
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _xml(text: str) -> str:
    return _NOT_XML.sub("�", text)


def _held(held: dict[str, int]) -> str:
    words = {
        "tight": "held to less than 1 %",
        "close": "to a wider tolerance",
        "bounds": "by bounds",
        "interval": "by the baseline's interval",
        "ignore": "not held",
    }
    parts = [f"{held[kind]} {text}" for kind, text in words.items() if held.get(kind)]
    return "numbers: " + ", ".join(parts) if parts else "no number in common"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
