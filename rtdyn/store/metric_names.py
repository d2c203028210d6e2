"""The name of a metric, the same in every model of a family, so that their trajectories overlay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtdyn.names import LAYERS


def final_layer(rows: list[dict[str, Any]]) -> int:
    """The layer whose neurons a step was analysed for: the last that its rows name; 0 if they name none."""
    return max((row["layer"] for row in rows if row["layer"] is not None), default=0)


def metric_name(row: Mapping[str, Any], final: int) -> str:
    """analysis/metric, then class and group; rows of attention and of `layers` add their layer, from L-1, and head.

    row: a row of metrics/. final: the index of the model's last layer, from `final_layer`.
    """
    parts = [row["analysis"], row["metric"], row["token_class"], row["group"]]
    if row["analysis"] in ("routing", LAYERS) and row["layer"] is not None:
        head = "" if row["head"] is None else f"H{row['head']}"
        parts.append(f"L{row['layer'] - final - 1}{head}")
    return "/".join(str(part) for part in parts if part is not None)
