"""Names of metrics: stable, and the same in models of any depth."""

from __future__ import annotations

from typing import Any

import pytest

from rtdyn.store.metric_names import final_layer, metric_name

KEYS = ("analysis", "metric", "token_class", "group", "layer", "head")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (("capture", "loss", None, None, None, None), "capture/loss"),
        (("ablation", "influence_mean", "rare", None, 5, None), "ablation/influence_mean/rare"),
        (("geometry", "size", "rare", "plateau", 5, None), "geometry/size/rare/plateau"),
        (("routing", "gini_difference", "rare", None, 5, 3), "routing/gini_difference/rare/L-1H3"),
        (("routing", "gini_difference", "rare", None, 4, None), "routing/gini_difference/rare/L-2"),
        (("routing", "matched_positions", "rare", None, None, None), "routing/matched_positions/rare"),
    ],
)
def test_names_are_stable(row: tuple[Any, ...], name: str) -> None:
    assert metric_name(dict(zip(KEYS, row, strict=True)), 5) == name


def test_models_of_any_depth_share_their_names() -> None:
    named = []
    for final in (5, 31):
        rows = [
            dict(zip(KEYS, ("routing", "gini", "rare", None, layer, None), strict=True)) for layer in (final - 1, final)
        ]
        assert final_layer(rows) == final
        named.append([metric_name(row, final_layer(rows)) for row in rows])
    assert named[0] == named[1] == ["routing/gini/rare/L-2", "routing/gini/rare/L-1"]
