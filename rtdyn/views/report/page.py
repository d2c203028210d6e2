"""The page of a report: one HTML file with its charts' data, script and library in it, and nothing to load.

plotly.js draws the charts. Among the libraries that a Python package carries for offline use it has log axes, heat
maps, touch and hover values. It takes new colours at any time, so that a page can follow the reader's light or dark
theme. Its 4.8 MB are most of the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import polars as pl

from rtdyn.counted import counted
from rtdyn.errors import InputError
from rtdyn.judge.bands import band_rows
from rtdyn.judge.designs import DesignComparison
from rtdyn.judge.domains import domain_rows
from rtdyn.judge.observations import is_recorded
from rtdyn.judge.scorecard import ClaimRow, scorecard
from rtdyn.judge.structure import unreached_layers
from rtdyn.names import ANALYSES, PLATEAU
from rtdyn.store.manifest import AuditRecord, CheckpointRecord, Manifest
from rtdyn.store.run import done_steps
from rtdyn.undefined import Undefined
from rtdyn.version import __version__
from rtdyn.views.report.opening import opening, published, sentence, verdicts_by_run
from rtdyn.views.report.page_data import THINNING, page_data
from rtdyn.views.report.panels import JudgedPanels, undefined_lines
from rtdyn.views.report.plots.influence import NO_INFLUENCE
from rtdyn.views.report.plots.neurons import TABLE_COLUMNS
from rtdyn.views.report.run_tables import RunTables
from rtdyn.views.report.together import together
from rtdyn.views.terminal.bands import BAND_HEADERS, BAND_NOTE, band_cells
from rtdyn.views.terminal.designs import (
    DESIGN_NOTE,
    ROW_HEADERS,
    VERDICT_HEADERS,
    row_cells,
    undefined_reasons,
    verdict_cells,
    verdicts_in_words,
)
from rtdyn.views.terminal.domains import DOMAIN_HEADERS, DOMAIN_NOTE, domain_cells, left_out_line
from rtdyn.views.terminal.scorecard import CELLS, HEADS_NOTE, claim_cells, targets_text, unreached_note
from rtdyn.views.terminal.summary import CAUTION, summary_rows

CLAIM_HEADERS = tuple(cell for cell in CELLS if cell != "claim")
"""Columns of the scorecard after the claim itself, which the page has in words."""


def page(
    shown: Sequence[RunTables],
    judged: Sequence[JudgedPanels],
    missing: Mapping[str, str],
    designs: DesignComparison | None = None,
) -> str:
    """The page of one run, or of several that share its charts.

    judged: each run's lines, from `judged_panels`. missing: figures that were not drawn, with reasons. designs: of two
    runs by the papers' design and ours.
    """
    from plotly.offline import get_plotlyjs

    data = page_data(shown, judged)
    claims = [claims_of(tables) for tables in shown]
    assets = files("rtdyn.views.report") / "assets"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((assets / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=", ".join(tables.label for tables in shown),
        single=len(shown) == 1,
        runs=[_about(*of_run) for of_run in zip(shown, claims, judged, strict=True)],
        by_run=verdicts_by_run(claims) if len(shown) > 1 else [],
        together=together(shown, judged) if all(judged) else [],
        has=_sections(data),
        designs=None if designs is None else _designs(designs),
        missing=missing,
        caution=CAUTION,
        thinning=THINNING,
        claim_headers=CLAIM_HEADERS,
        heads_note=HEADS_NOTE,
        band_headers=BAND_HEADERS,
        band_note=BAND_NOTE,
        domain_headers=DOMAIN_HEADERS,
        domain_note=DOMAIN_NOTE,
        neuron_headers=TABLE_COLUMNS,
        version=__version__,
        style=jinja2.filters.Markup((assets / "page.css").read_text(encoding="utf-8")),
        script=jinja2.filters.Markup((assets / "page.js").read_text(encoding="utf-8")),
        library=jinja2.filters.Markup(get_plotlyjs()),
        data=jinja2.filters.Markup(inline_json(data)),
    )


def claims_of(shown: RunTables) -> list[ClaimRow] | Undefined:
    """The scorecard's rows, or why there are none."""
    if not shown.classes:
        return NO_INFLUENCE
    try:
        return scorecard(shown.run)
    except InputError as error:
        return Undefined(str(error))


def inline_json(data: Any) -> str:
    """JSON that no text in it can end the script element of."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _sections(data: Mapping[str, Any]) -> dict[str, bool]:
    """The parts that any of the runs holds numbers for."""
    runs = data["runs"]
    sizes = [share for run in runs for c in run["regimes"].values() for share in c[PLATEAU]]
    return {
        "curves": any(run["influence"] for run in runs),
        "regimes": any(share is not None for share in sizes),
        "layers": any("layers" in run for run in runs),
        **{part: any(run[part] for run in runs) for part in ("attention", "spectra")},
    }


def _designs(comparison: DesignComparison) -> dict[str, Any]:
    """The tables of two designs."""
    verdicts = () if isinstance(comparison.verdicts, Undefined) else comparison.verdicts
    return {
        "step": comparison.step,
        "said": verdicts_in_words(comparison),
        "headers": ROW_HEADERS,
        "rows": [list(row_cells(row).values()) for row in comparison.rows],
        "verdict_headers": VERDICT_HEADERS,
        "verdicts": [list(verdict_cells(row).values()) for row in verdicts],
        "undefined": undefined_reasons(comparison),
        "note": DESIGN_NOTE,
    }


def _about(shown: RunTables, claims: list[ClaimRow] | Undefined, judged: JudgedPanels) -> dict[str, Any]:
    """One run's tables of text."""
    run, manifest, stored = shown.run, shown.run.manifest, done_steps(shown.run)
    classes, rows = summary_rows(shown.metrics.filter(pl.col("step") == shown.last))
    asked = manifest.config.get("analyses", [])
    return {
        "label": shown.label,
        "last": shown.last,
        "layer": shown.layer,
        "span": _span(shown.steps),
        "opening": opening(shown, claims),
        "classes": classes,
        "rows": rows,
        "claims": [] if isinstance(claims, Undefined) else [_claim(row) for row in claims],
        "judges_heads": not isinstance(claims, Undefined) and any(row.heads for row in claims),
        "unreached_note": unreached_note(unreached_layers(shown.metrics)),
        "bands": [band_cells(row) for row in band_rows(run)],
        "domains": [domain_cells(row) for row in domain_rows(run)],
        "domains_left_out": [left_out_line(*left_out) for left_out in manifest.domains_left_out.items()],
        "why_no_claims": claims.reason if isinstance(claims, Undefined) else "",
        "left_out": shown.left_out,
        "recorded": is_recorded(run, stored),
        "audit": _audit(manifest.audit),
        "not_asked": [name for name in ANALYSES if name not in asked],
        "undefined": undefined_lines(shown, judged) if shown.has_trajectories else {},
        "provenance": _provenance(manifest, str(run.path)),
        "config": {key: json.dumps(value, ensure_ascii=False) for key, value in manifest.config.items()},
        "token_classes": manifest.classes,
        "checkpoints": [
            {
                "step": step,
                "revision": record.revision,
                "commit": record.commit or "—",
                "digests": ", ".join(f"{name} {digest[:16]}" for name, digest in record.digests.items()),
                "note": _note(record),
            }
            for step, record in stored.items()
        ],
    }


def _span(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return f"step {steps[0]:,} stored"
    return f"{counted(len(steps), 'step')} stored, {steps[0]:,} to {steps[-1]:,}"


def _note(record: CheckpointRecord) -> str:
    copied = "" if record.copy_of is None else f"the same weights as step {record.copy_of}, whose tables were copied"
    ranges = "read by ranges, which a digest cannot verify" if record.read_by_ranges else ""
    return "; ".join(filter(None, (copied, ranges)))


def _audit(audit: AuditRecord | None) -> dict[str, Any] | None:
    """What the audit before the run found; None where none is recorded."""
    if audit is None:
        return None
    verdicts, passed_over = audit.steps, audit.passed_over
    return {
        "made": audit.made,
        "audited": len(verdicts),
        "sound": sum(v.verdict == "sound" for v in verdicts.values()),
        "findings": audit.findings,
        "unsound": {
            step: f"{v.verdict}: {'; '.join(v.reasons)}" + (", passed over" if step in passed_over else "")
            for step, v in verdicts.items()
            if v.verdict != "sound"
        }
        | {step: f"{why}, passed over" for step, why in passed_over.items() if step not in verdicts},
    }


def _claim(row: ClaimRow) -> dict[str, Any]:
    return {
        "cells": claim_cells(row),
        "text": sentence(row),
        "source": published(row.source),
        "reason": row.reason,
        "targets": targets_text(row),
        "at": row.step,
    }


def _provenance(manifest: Manifest, path: str) -> dict[str, str]:
    text, counts = manifest.evaluation, manifest.frequencies
    return {
        "suite": manifest.suite,
        "location": manifest.location or "—",
        "command": manifest.command or "not recorded: the run was not started from the command line",
        "run directory": path,
        "configuration digest": manifest.config_digest,
        "evaluation text": "none" if text is None else _listed(text.as_json()),
        "reference counts": "none" if counts is None else _listed(counts.as_json()),
        "versions": _listed(manifest.versions) or "—",
        "report made by": f"rtdyn {__version__}",
    }


def _listed(values: Mapping[str, Any]) -> str:
    """Names and values in one line, those of a mapping within it too; what is empty is left out."""
    parts = [
        _listed({f"{name} {key}": inner for key, inner in value.items()})
        if isinstance(value, Mapping)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in values.items()
        if value not in (None, {}, "")
    ]
    return ", ".join(filter(None, parts))
