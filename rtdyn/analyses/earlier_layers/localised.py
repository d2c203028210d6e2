"""How much of what acts on rare targets more than on common ones lies in the last layer, of the layers measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rtdyn.analyses.earlier_layers.layer import Layer
from rtdyn.analyses.influence.ablation import Influence
from rtdyn.analyses.statistics import Estimate, as_numpy, estimate, jackknife_se
from rtdyn.intervals import t_quantile
from rtdyn.names import COMMON, RARE
from rtdyn.undefined import Undefined


@dataclass(frozen=True)
class FinalLayer:
    """The last layer among those that were measured."""

    rare_excess: Estimate | Undefined
    """Mean influence of its neurons on the rare class less that on the common one, nats."""
    share: Estimate | Undefined
    """E_last / Σ E over the last layer and those measured before it, with E the excess of a layer."""


def final_layer(result: Influence, layers: Mapping[int, Layer], cluster: np.ndarray) -> FinalLayer:
    """What the last layer has of the excess.

    The excess E of a layer is Σ_i A_i(rare) − Σ_i A_i(common) over all its neurons, A of the total effect. Intervals
    come from a jackknife over pieces of text, which all layers share. result: of the last layer. cluster: int64
    (windows,), the independent piece of text that each window is of.
    """
    if COMMON not in result.classes:
        none = Undefined("there are no common positions")
        return FinalLayer(none, none)
    pieces = int(cluster.max()) + 1
    sums, counts = np.zeros((1 + len(layers), 2, pieces)), np.zeros((2, pieces))
    for k, name in enumerate((RARE, COMMON)):
        c = result.classes[name]
        of_window = cluster[as_numpy(c.window_ids)]
        np.add.at(counts[k], of_window, as_numpy(c.window_n))
        np.add.at(sums[0, k], of_window, as_numpy(c.window_abs_sum.sum(1)))
        for number, layer in enumerate(layers.values(), start=1):
            earlier = layer.classes[name]
            np.add.at(sums[number, k], earlier.text.of_window, earlier.absolute.window_sum.sum(1))
    held = (counts > 0).any(0)
    sums, counts = sums[:, :, held], counts[:, held]
    left_n = counts.sum(1, keepdims=True) - counts
    if (left_n == 0).any():
        one = Undefined("one piece of the text holds all positions of a class")
        return FinalLayer(one, one)
    whole, left = sums.sum(2) / counts.sum(1), (sums.sum(2, keepdims=True) - sums) / left_n
    excess, left_excess = whole[:, 0] - whole[:, 1], left[:, 0] - left[:, 1]
    clusters = int(held.sum())
    neurons = len(result.classes[RARE].mean_abs)
    own = estimate(float(excess[0]) / neurons, float(jackknife_se(left_excess[0])) / neurons, clusters)
    total = estimate(float(excess.sum()), float(jackknife_se(left_excess.sum(0))), clusters)
    if total.low is None or total.low <= 0:
        return FinalLayer(
            own, Undefined("the measured layers together do not clearly act more on rare targets than on common ones")
        )
    return FinalLayer(own, _ratio(float(excess[0]), float(excess.sum()), left_excess[0], left_excess.sum(0)))


def _ratio(part: float, total: float, left_part: np.ndarray, left_total: np.ndarray) -> Estimate:
    """part / total with Fieller's interval (1954): the ratios s at which part − s·total does not differ from 0.

    left_part, left_total: (g,), without each of g pieces of text. total: more than its own interval away from 0, so
    that the ratios are an interval. A jackknife of the ratio itself errs where the total is near 0: its standard error
    shrinks where the part, by chance, is large.
    """
    g = len(left_total)
    off = np.stack([v - v.mean() for v in (left_part, left_total)])
    (of_part, both), (_, of_total) = t_quantile(g) ** 2 * (g - 1) / g * (off @ off.T)
    a, b, c = total**2 - of_total, part * total - both, part**2 - of_part
    reach = math.sqrt(max(0.0, b**2 - a * c))
    return Estimate(part / total, float(b - reach) / a, float(b + reach) / a, g)
