"""What a set is in the whole layer, as quadratic forms in its indicator, whose moments are known (METHODS §6, §11).

r are the correlations without their diagonal, ρ their row sums. W are the weights of edges, k their row sums, 2m the
sum of k. The set has n neurons of F, and all vary.

    correlation_within = xᵀrx / n(n − 1)          correlation_across = xᵀ(diag ρ − r)x / n(F − n)
    segregation_q = xᵀ(W − kkᵀ/2m)x / m
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rtdyn.analyses.group import Group
from rtdyn.analyses.groups.graph import least_weight
from rtdyn.analyses.groups.permutation_moments import Form, Sizes, moments
from rtdyn.analyses.groups.set_sums import Layer, weight_blocks
from rtdyn.analyses.kernels import graphs
from rtdyn.analyses.statistics import as_numpy

Q, WITHIN, ACROSS = "segregation_q", "correlation_within", "correlation_across"


@dataclass(frozen=True)
class LayerForms:
    """Both halves' matrices, as far as moments need them."""

    layers: tuple[Layer, Layer]
    correlations: np.ndarray
    """float64 (2, 2): Σ over i ≠ j of products of r, of every two of the halves."""
    modules: np.ndarray
    """float64 (2, 2): the same of W − kkᵀ/2m."""


def layer_forms(layers: Sequence[Layer]) -> LayerForms | None:
    """Those of both halves; None where a neuron does not vary on one of them, as sets then differ in what they hold."""
    first, second = layers
    if not (first.varying.all() and second.varying.all()):
        return None
    strengths = np.stack([layer.totals[0] for layer in layers])
    if first.r.device.type == "cpu":
        least = least_weight(first.threshold)
        weights, correlations, along = graphs.products(first.r.numpy(), second.r.numpy(), least, strengths)
    else:
        weights, correlations, along = _products(first, second, strengths)
    total, squares = strengths.sum(1), strengths**2
    ranks_one = ((strengths @ strengths.T) ** 2 - squares @ squares.T) / np.outer(total, total)
    modules = weights - along / total - (along / total).T + ranks_one
    return LayerForms((first, second), correlations, modules)


def _products(first: Layer, second: Layer, strengths: np.ndarray) -> np.ndarray:
    """What `graphs.products` gives, float64 (3, 2, 2), on the layers' device."""
    k = torch.from_numpy(strengths).to(first.r.device)
    sums = torch.zeros(3, 2, 2, dtype=torch.float64, device=k.device)
    blocks = (weight_blocks(layer.r, least_weight(layer.threshold)) for layer in (first, second))
    for (rows, of_first), (_, of_second) in zip(*blocks, strict=True):
        weights, _, correlations = (torch.stack(parts).double() for parts in zip(of_first, of_second, strict=True))
        for kind, both in enumerate((weights, correlations)):
            sums[kind] += torch.einsum("aij,bij->ab", both, both)
        sums[2] += torch.einsum("gi,hij,gj->hg", k[:, rows], weights, k)
    return as_numpy(sums)


def moments_of_group(forms: LayerForms, group: Group) -> Mapping[str, tuple[float, float]]:
    """By metric that sets of these sizes have: mean and deviation over permutations of all neurons.

    Each half's choice is measured on the other half.
    """
    a, b = group.members
    chosen, everyone = (len(a), len(b)), len(forms.layers[0].varying)
    sizes = Sizes(*chosen, len(np.intersect1d(a, b)), everyone)
    r = [layer.totals[2] for layer in forms.layers]
    k = [layer.totals[0] for layer in forms.layers]
    nothing = np.zeros(everyone)
    by_metric = {
        WITHIN: ([(nothing, v) for v in r], forms.correlations, [n * (n - 1) for n in chosen]),
        ACROSS: ([(v, -v) for v in r], forms.correlations, [n * (everyone - n) for n in chosen]),
        Q: ([(-(v**2) / v.sum(), v**2 / v.sum()) for v in k], forms.modules, [v.sum() / 2 for v in reversed(k)]),
    }
    found = {}
    for metric, (parts, inner, divisors) in by_metric.items():
        if min(divisors) == 0:  # such a set has no value either
            continue
        # the half measured is the one that did not choose
        of_halves = [Form(*(part / divisor for part in parts[1 - h])) for h, divisor in enumerate(divisors)]
        found[metric] = moments((of_halves[0], of_halves[1]), inner[::-1, ::-1] / np.outer(divisors, divisors), sizes)
    return found
