"""What W&B's table of runs shows of a run beside its last step: verdicts of claims, and extremes over training."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rtdyn.judge.scorecard import ClaimRow
from rtdyn.store.metric_names import final_layer, metric_name

EXTREMES = (("capture", "loss"), *(("ablation", f"influence_{what}") for what in ("mean", "max", "top_share")))
"""Analysis and metric of the numbers with extremes. None has a null: the extreme of many p-values is a chance's."""


def claim_summary(claims: Sequence[ClaimRow]) -> dict[str, str | int]:
    """Verdicts, and the steps from which supported claims hold, by `claims/`, the claim, and its layer or part.

    claims: one run's. Layers are counted from the end, as models of several sizes share them: L-1 is the last.
    """
    summary: dict[str, str | int] = {}
    final = max((row.layer for row in claims if row.layer is not None), default=0)
    for row in claims:
        layer = None if row.layer is None else f"L-{final + 1 - row.layer}"
        heads = None if row.heads is None else row.heads.replace(" ", "-")
        name = "/".join(filter(None, ("claims", row.claim, layer, row.matrix, heads)))
        summary[f"{name}/verdict"] = row.verdict
        if row.emerged is not None:
            summary[f"{name}/emerged"] = row.emerged
    return summary


def extremes(metrics: pl.DataFrame) -> dict[str, float]:
    """The least and largest value over the steps, by `min/` or `max/` and the number's name.

    metrics: rows of all sound steps. W&B's own extremes would be those of the last process alone, once a run resumes.
    """
    rows = metrics.filter(pl.col("value").is_not_null(), pl.col("head").is_null()).to_dicts()
    final, values = final_layer(rows), dict[str, list[float]]()
    for row in rows:
        if (row["analysis"], row["metric"]) in EXTREMES:
            values.setdefault(metric_name(row, final), []).append(row["value"])
    lowest = {f"min/{name}": min(of_steps) for name, of_steps in values.items()}
    return lowest | {f"max/{name}": max(of_steps) for name, of_steps in values.items()}
