"""An audit for readers and for machines."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rtdyn.audit.verdicts import Audit, KnownDefect, StepVerdict
from rtdyn.say_plain import say_plain


def audit_record(audit: Audit) -> dict[str, Any]:
    """The audit as JSON holds it."""
    return {
        "model": audit.model,
        "location": audit.location,
        "steps": [_verdict_record(verdict) for verdict in audit.steps],
        "shared": [
            {
                "steps": list(group.steps),
                "files": None if group.files is None else list(group.files),
                "equals_main": group.equals_main,
                "belongs_to": group.belongs_to,
            }
            for group in audit.shared
        ],
        "known_defects": [
            {
                "kind": known.defect.kind,
                "note": known.defect.note,
                "source": known.defect.source,
                "status": known.status,
                "met": list(known.met),
                "gone": list(known.gone),
                "unseen": list(known.unseen),
            }
            for known in audit.known
        ],
        "unexpected": list(audit.unexpected),
        "findings": list(audit.findings),
        "defects": len(audit.unsound),
        "summary": audit.summary,
    }


def _verdict_record(verdict: StepVerdict) -> dict[str, Any]:
    """One step's verdict as JSON holds it."""
    weights = verdict.weights
    return {
        "step": verdict.step,
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "notes": list(verdict.notes),
        "duplicates_of": list(verdict.duplicates_of),
        "belongs_to": verdict.belongs_to,
        "equals_main": verdict.equals_main,
        "revision": verdict.revision,
        "commit": verdict.commit,
        "format": weights.layout if weights else None,
        "size": weights.size if weights else None,
        "digests": weights.digests if weights else {},
    }


def print_audit(audit: Audit, console: Console) -> None:
    """A table with a row a step, then what concerns the suite, then the summary in one line."""
    table = Table(title=escape(f"{audit.model}: {audit.location}"), title_justify="left")
    for name, justify in (("step", "right"), ("verdict", "left"), ("format", "left"), ("MB", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    table.add_column("why", overflow="fold")
    for verdict in audit.steps:
        weights = verdict.weights
        digests = list(weights.digests.values()) if weights else []
        table.add_row(
            str(verdict.step),
            verdict.verdict,
            weights.layout if weights else "",
            f"{weights.size / 1e6:,.1f}" if weights else "",
            digests[0][:12] if digests else "",
            escape("; ".join((*verdict.reasons, *verdict.notes))),
        )
    console.print(table)
    lines = [*audit.findings, *(_known_line(known) for known in audit.known), audit.summary]
    for line in lines:
        say_plain(console, line)


def _known_line(known: KnownDefect) -> str:
    counts = ", ".join(
        f"{len(steps)} {word}"
        for word, steps in (("met", known.met), ("gone", known.gone), ("not visible in metadata", known.unseen))
        if steps
    )
    return f"known defect, {known.defect.note}: {counts or 'none of its steps is there'} ({known.defect.source})"
