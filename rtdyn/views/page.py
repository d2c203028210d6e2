"""The page of a report: one HTML file with its charts' data, script and library in it, and nothing to load.

plotly.js draws the charts: among the libraries that a Python package carries for offline use it has log axes, heat
maps, touch and hover values, and takes new colours at any time, so that a page can follow the reader's light or dark
theme. Its 4.8 MB are most of the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import polars as pl

from rtdyn import __version__
from rtdyn.claims import CELLS, ClaimRow, claim_cells, scorecard
from rtdyn.errors import InputError
from rtdyn.store import Run, done_steps
from rtdyn.views.page_data import THINNING, page_data
from rtdyn.views.plots.neurons import TABLE_COLUMNS
from rtdyn.views.series_panels import Judged, undefined_lines
from rtdyn.views.shown import Shown
from rtdyn.views.summary import CAUTION, summary_rows


def page(
    runs: Sequence[Run],
    shown: Sequence[Shown],
    judged: Sequence[Mapping[str, Sequence[Judged]]],
    missing: Mapping[str, str],
) -> str:
    """The page of one run, or of several that share its charts.

    judged: each run's lines, from `judged_panels`. missing: figures that were not drawn, with reasons.
    """
    from plotly.offline import get_plotlyjs

    assets = files("rtdyn.views") / "assets"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((assets / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=", ".join(one.label for one in shown),
        single=len(shown) == 1,
        runs=[_about(run, one) for run, one in zip(runs, shown, strict=True)],
        missing=missing,
        caution=CAUTION,
        thinning=THINNING,
        claim_headers=CELLS,
        neuron_headers=TABLE_COLUMNS,
        version=__version__,
        style=jinja2.filters.Markup((assets / "page.css").read_text(encoding="utf-8")),
        script=jinja2.filters.Markup((assets / "page.js").read_text(encoding="utf-8")),
        library=jinja2.filters.Markup(get_plotlyjs()),
        data=jinja2.filters.Markup(inline_json(page_data(shown, judged))),
    )


def inline_json(data: Any) -> str:
    """JSON that no text in it can end the script element of."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _about(run: Run, shown: Shown) -> dict[str, Any]:
    """One run's tables of text."""
    last = shown.steps[-1]
    classes, rows = summary_rows(shown.metrics.filter(pl.col("step") == last))
    stored = done_steps(run)
    claims, why_none = _claims(run)
    manifest = run.manifest
    return {
        "label": shown.label,
        "last": last,
        "steps": len(shown.steps),
        "classes": classes,
        "rows": rows,
        "claims": claims,
        "why_no_claims": why_none,
        "left_out": shown.left_out,
        "behind": len(stored) - len(manifest["checkpoints"]),
        "undefined": undefined_lines(shown) if shown.has_trajectories else {},
        "provenance": _provenance(manifest, str(run.path)),
        "config": {key: json.dumps(value, ensure_ascii=False) for key, value in manifest["config"].items()},
        "token_classes": manifest.get("classes", {}),
        "checkpoints": [
            {
                "step": step,
                "revision": record["revision"],
                "commit": record["commit"] or "—",
                "digests": ", ".join(f"{name} {digest[:16]}" for name, digest in record["digests"].items()),
            }
            for step, record in stored.items()
        ],
    }


def _claims(run: Run) -> tuple[list[dict[str, Any]], str]:
    """The scorecard's rows, or why there are none."""
    try:
        return [_claim(row) for row in scorecard(run)], ""
    except InputError as error:
        return [], str(error)


def _claim(row: ClaimRow) -> dict[str, Any]:
    return {"cells": claim_cells(row), "text": row.text, "source": row.source, "reason": row.reason, "at": row.step}


def _provenance(manifest: Mapping[str, Any], path: str) -> dict[str, str]:
    evaluation, frequencies = manifest.get("evaluation", {}), manifest.get("frequencies", {})
    return {
        "suite": str(manifest["suite"]),
        "location": str(manifest.get("location", "—")),
        "command": str(manifest.get("command") or "not recorded: the run was not started from the command line"),
        "run directory": path,
        "configuration digest": str(manifest["config_digest"]),
        "evaluation text": ", ".join(f"{key} {value}" for key, value in evaluation.items()) or "—",
        "reference counts": ", ".join(f"{key} {value}" for key, value in frequencies.items()) or "—",
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()) or "—",
        "report made by": f"rtdyn {__version__}",
    }
