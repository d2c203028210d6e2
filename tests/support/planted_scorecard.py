"""A run in which every claim holds, and changes of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from store.test_run import manifest, record

from rtdyn.judge.claims import CLAIMS
from rtdyn.judge.scorecard import ClaimRow, scorecard
from rtdyn.store.run import Run, open_run, write_step
from rtdyn.store.schema import Metric, StepTables, metric_frame

STEPS = (0, 1, 2, 4, 8, 16, 32, 64)
FINAL = 5
BY_LAYER = {c.name for c in CLAIMS if c.layers}
Change = Callable[[Metric, int], Metric | None]


def measured(step: int) -> list[Metric]:
    """A step on which every claim holds, from step 4 on; before it nothing is shown."""
    late = step >= 4
    p = 0.001 if late else 0.5
    regime = [("rare", "r1", 20.0, 15.0, 25.0), ("rare", "excess", 0.8 * late, 0.5 * late - 0.1, 1.0 * late + 0.1),
              ("rare", "kappa", 0.5, 0.4, 0.6), ("common", "excess", 0.0, -0.1, 0.1)]  # fmt: skip
    rows = [Metric("regimes", m, v, token_class=c, layer=FINAL, ci_low=a, ci_high=b) for c, m, v, a, b in regime]
    rows += [Metric("regimes", "plateau_fraction", 0.01, token_class="rare", layer=FINAL, ci_low=0.0075, ci_high=0.0125,
                    clusters=40),
             Metric("regimes", "decay_slope", -3.0, token_class="rare", layer=FINAL),
             Metric("regimes", "shape_p_value", p, token_class="rare", layer=FINAL, null="shape", p_value=p),
             Metric("regimes", "shape_p_value", 0.4, token_class="common", layer=FINAL, null="shape", p_value=0.4),
             Metric("regimes", "contrast_excess", 0.8, token_class="rare", layer=FINAL, null="pseudo-class",
                    null_mean=0.1, null_sd=0.1, p_value=p)]  # fmt: skip
    alpha = 3.0 * (step + 1) ** -0.2
    for group in ("plateau", "top"):
        for null in ("random", "matched", "selected"):
            against = {"group": group, "token_class": "rare", "layer": FINAL, "null": null, "p_value": p}
            rows += [Metric("dimensionality", "d_eff", 20.0, null_mean=26.0, null_sd=1.0, **against),
                     Metric("modularity", "q_excess", 0.21, null_mean=0.2, null_sd=0.03, **against),
                     Metric("modularity", "inside_share", 0.1, null_mean=0.1, null_sd=0.02, **against)]  # fmt: skip
            rows.append(Metric("heavytail", "hill_alpha_half", alpha, null_mean=3.0, null_sd=0.3,
                               ci_low=0.8 * alpha, ci_high=1.2 * alpha, **against))  # fmt: skip
            for layer in (FINAL - 1, FINAL):
                at = {**against, "layer": layer, "null_mean": 0.0, "null_sd": 0.1, "clusters": 40}
                rows += [Metric("routing", "head_effect_max", -0.02, ci_low=-0.04, ci_high=0.0, **at),
                         Metric("routing", "layer_effect", -0.47, ci_low=-0.5, ci_high=-0.44, **at)]  # fmt: skip
    for layer in (FINAL - 1, FINAL):
        rows += [Metric("routing", "profile_r", 0.95, layer=layer, ci_low=0.9, ci_high=1.0, clusters=40),
                 Metric("routing", "profile_r_plain", 0.89, layer=layer, null="pseudo-class", null_mean=0.94,
                        null_sd=0.02, p_value=0.01),
                 Metric("routing", "gini_difference", 0.002, layer=layer, ci_low=-0.01, ci_high=0.014,
                        null="pseudo-class", null_mean=0.0, null_sd=0.005, p_value=0.7)]  # fmt: skip
    rows.append(Metric("layers", "final_layer_share", 0.7, token_class="rare", layer=FINAL, ci_low=0.6, ci_high=0.8,
                       clusters=40))  # fmt: skip
    return rows


def planted(path: Path, change: Change = lambda row, step: row, steps: tuple[int, ...] = STEPS, **more: Any) -> Run:
    """A run of `measured` steps, each row changed or, where the change gives None, left out."""
    run = open_run(path, manifest().replace(**more))
    for step in steps:
        store(run, step, [new for row in measured(step) if (new := change(row, step)) is not None])
    return run


def store(run: Run, step: int, rows: list[Metric]) -> None:
    empty = pl.DataFrame({"step": [step]})
    write_step(run, step, record(step, m=str(step)), StepTables(metric_frame(rows, step, step * 10), empty, empty))


def edit(metric: str, token_class: str | None = None, where: Mapping[str, Any] | None = None, **fields: Any) -> Change:
    """A change of one metric's fields at every step."""

    def change(row: Metric, step: int) -> Metric:
        wanted = row.metric == metric and token_class in (None, row.token_class)
        wanted = wanted and all(getattr(row, k) == v for k, v in (where or {}).items())
        return replace(row, **fields) if wanted else row

    return change


def rows_of(run: Run, claim: str) -> list[ClaimRow]:
    return [row for row in scorecard(run) if row.claim == claim]


def verdict(path: Path, claim: str, change: Change) -> tuple[str, str]:
    rows = rows_of(planted(path, change), claim)
    return rows[-1].verdict, rows[-1].reason


PLATEAU_CLAIMS = ("lower-dimensionality", "no-modular-cluster", "single-head-small", "layer-effect", "heavy-tailed",
                  "tail-grows")  # fmt: skip


def no_plateau(row: Metric, step: int) -> Metric:
    if row.group != "plateau":
        return row
    return replace(row, value=None, null=None, null_mean=None, null_sd=None, p_value=None, ci_low=None, ci_high=None,
                   clusters=None,
                   reason="no neuron is a member in more than half of the draws")  # fmt: skip
