"""What the model's structure leaves without a value at any step, so that no claim is judged by it."""

from __future__ import annotations

import polars as pl

from rtdyn.judge.claims import CLAIMS
from rtdyn.names import BY_STRUCTURE

_BY_STRUCTURE = pl.col("reason").str.starts_with(BY_STRUCTURE)


def is_structural(metrics: pl.DataFrame, analysis: str, metric: str, layer: int | None) -> bool:
    """Whether structure leaves the layer's metric without a value, for any group that has neurons."""
    if layer is None:
        return False
    return not metrics.filter(_BY_STRUCTURE, analysis=analysis, metric=metric, layer=layer).is_empty()


def unreached_layers(metrics: pl.DataFrame) -> list[int]:
    """Layers whose own attention cannot reach their neurons, so that no claim is judged of it, ascending."""
    of_claims = [c.criteria[0].metric for c in CLAIMS if c.of_heads]
    return metrics.filter(_BY_STRUCTURE, pl.col("metric").is_in(of_claims))["layer"].unique().sort().to_list()
