"""What the page's charts draw, as JSON: thinned and rounded, and described where it is (`THINNING`).

Influence is kept at up to RANKS ranks, evenly spaced in log rank, its own value at each. The heat map's influences are
levels of 1/254 of their range in log₁₀. Everything else is as stored, to FIGURES significant figures.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from rtdyn.judge.series import Series
from rtdyn.names import COMMON, DECAY, PLATEAU, POWER_LAW, RARE
from rtdyn.store.schema import AT_EDGE, ATTENTION, EIGENVALUE, PSEUDO_INFLUENCE
from rtdyn.undefined import Undefined
from rtdyn.views.report.layers import (
    QUANTITIES,
    TWO_SIGNS,
    calibration_points,
    calibration_said,
    layer_matrix,
    layer_name,
    measured_layers,
)
from rtdyn.views.report.panels import PANELS, JudgedLine, JudgedPanels
from rtdyn.views.report.plots.influence import (
    RANKS,
    fitted_segments,
    plateau_intervals,
    ranked_influence,
    thinned,
    verdict,
)
from rtdyn.views.report.plots.lines import HEADS, drawn_heads
from rtdyn.views.report.plots.neurons import (
    REGIMES,
    ROWS,
    cells,
    heat_map_neurons,
    influence_matrix,
    neuron_rows,
    regime_matrix,
)
from rtdyn.views.report.plots.style import COLOURS, run_colour
from rtdyn.views.report.plots.trajectories import null_band
from rtdyn.views.report.run_tables import RunTables

FIGURES = 4
LEVELS = 254
SPECTRUM_RANKS = 64
CALIBRATED = 64
"""Random neurons of a layer in a scatter."""
THINNING = (
    f"Curves by rank show up to {RANKS} ranks, evenly spaced in log rank, each neuron's own value and no average; "
    f"spectra up to {SPECTRUM_RANKS} ranks. The heat map shows the {ROWS} neurons that ranked highest at any step, in "
    f"{LEVELS} shades of log influence. Attention is that of the {HEADS} heads of a layer that differ most at the last "
    f"step. Of an earlier layer's random neurons up to {CALIBRATED} are shown. Numbers are rounded to {FIGURES} "
    "figures; the Parquet tables hold all of them in full."
)


def page_data(runs: Sequence[RunTables], judged: Sequence[JudgedPanels]) -> dict[str, Any]:
    """Everything the page's script draws; a run's arrays are in the order of its `steps`.

    judged: each run's lines by panel, from `judged_panels`.
    """
    single = len(runs) == 1
    return {
        "runs": [_run(run, judged[index], index, single) for index, run in enumerate(runs)],
        "panels": [
            {
                "name": p.name,
                "title": p.title,
                "unit": p.unit,
                "scale": p.scale,
                "isP": p.lines[0].effect == "value is p",
            }
            for p in PANELS
        ],
        "colours": COLOURS,
        "regimes": [{"name": name, "colour": colour} for name, colour in REGIMES],
    }


def _run(run: RunTables, judged: JudgedPanels, index: int, single: bool) -> dict[str, Any]:
    mapped = single and bool(run.classes)
    tokens = dict(run.metrics.select("step", "tokens_seen").unique("step").iter_rows())
    return {
        "label": run.label,
        "colour": run_colour(index),
        "steps": run.steps,
        "last": run.last,
        "tokens": [tokens[step] for step in run.steps],
        "leftOut": {str(step): why for step, why in run.left_out.items()},
        "influence": {c: _influence(run, c) for c in (RARE, COMMON) if c in run.classes},
        "band": [_columns(run.curves.filter(step=s, kind=PSEUDO_INFLUENCE), "x", "low", "high") for s in run.steps],
        "series": {name: [_judged(line) for line in lines] for name, lines in judged.items()},
        "regimes": {c: _sizes(run, c) for c in (RARE, COMMON) if c in run.classes},
        "attention": _attention(run),
        "spectra": _spectra(run),
        **({"layers": _layers(run)} if single and measured_layers(run) else {}),
        **({"map": _map(run), "table": [[cells(r) for r in neuron_rows(run, s)] for s in run.steps]} if mapped else {}),
    }


def numbers(values: Iterable[float | None]) -> list[float | None]:
    """Rounded to FIGURES significant figures; what is not a finite number is null."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.{FIGURES}g}") for v in values]


def _columns(frame: pl.DataFrame, *names: str) -> dict[str, list[float | None]]:
    return {name: numbers(frame[name]) for name in names}


def _influence(run: RunTables, token_class: str) -> dict[str, Any]:
    ranks = thinned(run.neurons["neuron"].n_unique(), RANKS)
    steps = []
    for step in run.steps:
        ranked = ranked_influence(run, step, token_class)[(ranks - 1).tolist()]
        fit = fitted_segments(run, step, token_class)
        steps.append(
            {
                **_columns(ranked, "influence", "error"),
                "neuron": ranked["neuron"].to_list(),
                "fit": {name: [numbers(ends), numbers(values)] for name, (ends, values) in fit.items()},
                "verdict": verdict(run, step, token_class),
            }
        )
    return {"ranks": ranks.tolist(), "steps": steps}


def _judged(judged: JudgedLine) -> dict[str, Any]:
    emerged, changes, flawed = judged.emerged, judged.changes, judged.left_out
    changed = [] if isinstance(changes, Undefined) else zip(changes.after, changes.steps, strict=True)
    return {
        "label": judged.line.label,
        "colour": judged.line.colour,
        "nullName": judged.line.selection.null,
        **_arrays(judged.series),
        "leftOut": None if flawed is None else {"steps": flawed.steps.tolist(), "value": numbers(flawed.value)},
        "emerged": None
        if emerged is None
        else {"step": emerged.step, "after": emerged.after, "reason": emerged.reason},
        "changes": list(map(list, changed)),
    }


def _arrays(s: Series) -> dict[str, Any]:
    low, high = null_band(s)
    arrays = {
        "value": s.value, "low": s.ci_low, "high": s.ci_high, "p": s.p_value,
        "nullMean": s.null_mean, "nullLow": low, "nullHigh": high,
    }  # fmt: skip
    return {"steps": s.steps.tolist()} | {name: numbers(v) for name, v in arrays.items() if np.isfinite(v).any()}


def _sizes(run: RunTables, token_class: str) -> dict[str, list[Any]]:
    rows = run.metrics.filter(analysis="regimes", token_class=token_class)
    result: dict[str, list[Any]] = {}
    for name in (PLATEAU, POWER_LAW, DECAY):
        by_step = dict(rows.filter(metric=f"{name}_fraction").select("step", "value").iter_rows())
        result[name] = numbers(by_step.get(step) for step in run.steps)
    result["raised"] = [bool(run.value(step, "raised", token_class)) for step in run.steps]
    ends = {step: (low, high) for step, low, high in plateau_intervals(run, token_class).iter_rows()}
    for place, end in enumerate(("low", "high")):
        result[end] = numbers(ends[step][place] if step in ends else None for step in run.steps)
    edges = rows.filter(metric="r1", status=AT_EDGE)
    sides = {step: "≥" if high is None else "≤" for step, high in edges.select("step", "ci_high").iter_rows()}
    result["edge"] = [sides.get(step, "") for step in run.steps]
    return result


def _attention(run: RunTables) -> list[dict[str, Any]]:
    """A record a layer and head, with lines by class for each step; steps without profiles are null."""
    profiles = run.curves.filter(kind=ATTENTION)
    if not profiles.height:
        return []
    last = profiles.filter(pl.col("step") == pl.col("step").max())
    result = []
    for layer in profiles["layer"].unique().sort():
        for head in drawn_heads(last, layer):
            profile = profiles.filter(layer=layer, head=head).sort("x")
            by_step = profile.partition_by("step", as_dict=True)
            result.append(
                {
                    "layer": layer,
                    "head": head,
                    "steps": [
                        {
                            RARE: numbers(by_step[(s,)].filter(token_class=RARE)["value"]),
                            COMMON: numbers(by_step[(s,)].filter(token_class=COMMON)["value"]),
                            "low": numbers(by_step[(s,)].filter(token_class=COMMON)["low"]),
                            "high": numbers(by_step[(s,)].filter(token_class=COMMON)["high"]),
                        }
                        if (s,) in by_step
                        else None
                        for s in run.steps
                    ],
                }
            )
    return result


def _spectra(run: RunTables) -> list[dict[str, Any]]:
    """A record a group and input matrix, with a list of the two halves' lines for each step."""
    lines = run.curves.filter(pl.col("kind").str.starts_with(EIGENVALUE))
    result = []
    for (group, kind), eigenvalues in sorted(lines.partition_by("group", "kind", as_dict=True).items()):
        by_step = eigenvalues.sort("half", "x").partition_by("step", "half", as_dict=True)
        steps = [
            [_thin(by_step[(s, half)]) for half in (0, 1) if (s, half) in by_step]
            for s in run.steps
        ]  # fmt: skip
        matrix = str(kind).removeprefix(EIGENVALUE).removeprefix("_")
        result.append({"group": group, "matrix": matrix, "steps": steps})
    return result


def _thin(line: pl.DataFrame) -> dict[str, list[float | None]]:
    kept = line[(thinned(line.height, SPECTRUM_RANKS) - 1).tolist()]
    positive = kept.with_columns(pl.col("value", "low", "high").replace(0.0, None))
    return _columns(positive, "x", "value", "low", "high", "fit")


def _map(run: RunTables) -> dict[str, Any]:
    neurons = heat_map_neurons(run)
    logs = np.log10(influence_matrix(run, neurons))
    low, high = float(np.nanmin(logs)), float(np.nanmax(logs))
    span = max(high - low, 1e-12)
    levels = np.where(np.isnan(logs), LEVELS + 1, np.rint((logs - low) / span * LEVELS))
    regimes = regime_matrix(run, neurons)
    return {
        "neurons": neurons,
        "total": run.neurons["neuron"].n_unique(),
        "low": low,
        "high": high,
        "levels": _bytes(levels),
        "regimes": None if regimes is None else _bytes(np.where(np.isnan(regimes), LEVELS + 1, regimes)),
    }


def _layers(run: RunTables) -> dict[str, Any]:
    """Heat maps of layer and step, and each earlier layer's random neurons at each step, CALIBRATED of them at most."""
    layers = measured_layers(run)
    return {
        "names": [layer_name(run, layer) for layer in layers],
        "twoSigns": TWO_SIGNS,
        "maps": [
            {"title": q.title, "unit": q.unit, "values": [numbers(row) for row in layer_matrix(run, q)]}
            for q in QUANTITIES
        ],
        "calibration": [
            {
                "name": layer_name(run, layer),
                "steps": [
                    {
                        "said": calibration_said(run, step, layer),
                        **_points(calibration_points(run, step, layer).head(CALIBRATED)),
                    }
                    for step in run.steps
                ],
            }
            for layer in layers
            if layer != run.layer
        ],
    }


def _points(points: pl.DataFrame) -> dict[str, Any]:
    return {"neuron": points["neuron"].to_list(), **_columns(points, "first_order", "exact")}


def _bytes(values: np.ndarray) -> str:
    """Base64 of one byte a value, row by row; LEVELS + 1 stands for none."""
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()
