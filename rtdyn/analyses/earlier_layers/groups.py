"""Groups of an earlier layer's neurons, chosen by the first order as the last layer's are by the exact influence.

A group's nulls hold where its own rule picks their sets. The first order is known of every neuron, half of the windows
and pseudo-class. The exact influence is known of the neurons that the first order on `rare` chose, and of random ones.
So the first order chooses the group and the sets of the null `selected` alike, where it may rank neurons at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from rtdyn.analyses.earlier_layers.calibration import ranks
from rtdyn.analyses.earlier_layers.curve import MOST_ERROR, known_influence, line_scatter
from rtdyn.analyses.earlier_layers.estimate import ClassMean
from rtdyn.analyses.earlier_layers.layer import Layer
from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.choose import split_groups, window_halves
from rtdyn.analyses.groups.nulls import matching_cells
from rtdyn.analyses.influence.ablation import Influence, class_influence
from rtdyn.names import PLATEAU, RARE, TOP
from rtdyn.undefined import Undefined

CHOSEN = (PLATEAU, TOP)
"""The others rest on signs of neurons, or on where the curve ends, which the first order alone does not show."""


@dataclass(frozen=True)
class LayerGroups:
    """One layer's."""

    influence: Influence
    """On `rare` and on pseudo-classes, to first order."""
    groups: Mapping[str, Group | Undefined]
    """CHOSEN by name."""
    exact_overlap: float | Undefined
    """Share of `top` that the layer's ranks, exact where neurons were measured, choose on the same half too."""


def layer_groups(layer: Layer, cluster: np.ndarray, overlap: float, seed: int, rank_by: str) -> LayerGroups:
    """cluster: int64 (windows,), the independent piece of text of each. overlap: `pseudo_classes.overlap`."""
    rare = layer.classes[RARE]
    result = _first_order(layer, cluster)
    allowed = ranks(layer.ranking, all_measured=False)  # what chooses is the first order, whatever was measured
    if isinstance(allowed, Undefined):
        return LayerGroups(result, dict.fromkeys(CHOSEN, allowed), allowed)
    groups = split_groups(result, cluster, matching_cells(layer.captured), overlap, seed, rank_by, names=CHOSEN)
    mean = rare.signed if rank_by == "abs_mean" else rare.absolute
    error = line_scatter(mean, layer.sample)
    if isinstance(error, Undefined):
        groups[PLATEAU] = error
    elif error > MOST_ERROR:
        groups[PLATEAU] = Undefined(
            f"the first order shows no curve: it may err by {error:.0%} of an influence, over {MOST_ERROR:.0%}"
        )
    return LayerGroups(result, groups, _exact_overlap(groups[TOP], mean, layer, window_halves(cluster)))


def _first_order(layer: Layer, cluster: np.ndarray) -> Influence:
    """The first order as an influence on `rare`."""
    rare = layer.classes[RARE]
    windows = np.unique(layer.captured.positions.window)
    held = rare.text.window_n > 0
    ids = windows[held]
    neurons = len(rare.signed.value)
    nothing = torch.zeros(0, neurons, dtype=torch.float64)
    of_rare = class_influence(
        torch.from_numpy(ids),
        torch.unique(torch.from_numpy(cluster[ids]), return_inverse=True)[1],
        torch.from_numpy(rare.text.window_n[held]),
        torch.from_numpy(rare.signed.first_order_sum[held]),
        torch.from_numpy(rare.absolute.first_order_sum[held]),
        torch.zeros(neurons, dtype=torch.float64),
        (torch.zeros(0, dtype=torch.int64), nothing, nothing),
    )
    return Influence({RARE: of_rare}, layer.pseudo, 0.0)


def _exact_overlap(top: Group | Undefined, mean: ClassMean, layer: Layer, halves: np.ndarray) -> float | Undefined:
    """mean: of what ranks neurons, on `rare`. halves: int64 (windows,)."""
    if isinstance(top, Undefined):
        return top
    of_window = halves[np.unique(layer.captured.positions.window)]
    n = layer.classes[RARE].text.window_n
    shares = []
    for half, members in enumerate(top.members):
        mine = of_window == half
        value, first = (sums[mine].sum(0) / n[mine].sum() for sums in (mean.window_sum, mean.first_order_sum))
        known = known_influence(replace(mean, value=value, first_order=first), layer.sample)
        chosen = np.argsort(-known, kind="stable")[: len(members)]
        shares.append(float(np.isin(members, chosen).mean()))
    return float(np.mean(shares))
