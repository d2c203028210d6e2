"""Mean and deviation over random permutations of neurons, of quadratic forms in sets (METHODS §11).

One permutation moves two sets, which keep their sizes and the number of neurons that they share. x and y are their
indicators. The expectation of a product of entries depends only on which of its indices agree. So those of xᵀMx and of
xᵀMx · yᵀM'y are sums over the ways in which indices can agree. Each way has its chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Form:
    """What the moments of xᵀMx need of a symmetric M (F, F)."""

    diagonal: np.ndarray
    """float64 (F,)."""
    rows: np.ndarray
    """float64 (F,): the sum of each row without its diagonal."""


@dataclass(frozen=True)
class Sizes:
    """Of two sets, and of the layer that they are drawn from."""

    first: int
    second: int
    shared: int
    """Neurons in both."""
    layer: int


def moments(forms: tuple[Form, Form], inner: np.ndarray, sizes: Sizes) -> tuple[float, float]:
    """Mean and standard deviation of (xᵀMx + yᵀM'y)/2 over permutations.

    forms: of M and M'. inner: float64 (2, 2), Σ over i ≠ j of products of their entries, of every two of the matrices.
    """
    of_first = Sizes(sizes.first, sizes.first, sizes.first, sizes.layer)
    of_second = Sizes(sizes.second, sizes.second, sizes.second, sizes.layer)
    mean = (_mean(forms[0], of_first) + _mean(forms[1], of_second)) / 2
    square = (
        _product(forms[0], forms[0], inner[0, 0], of_first)
        + _product(forms[1], forms[1], inner[1, 1], of_second)
        + 2 * _product(forms[0], forms[1], inner[0, 1], sizes)
    ) / 4
    return mean, math.sqrt(max(0.0, square - mean**2))


def _mean(form: Form, sizes: Sizes) -> float:
    one, two = _chance(sizes, 0, 1, 0), _chance(sizes, 0, 2, 0)
    return float(form.diagonal.sum() * one + form.rows.sum() * two)


def _product(a: Form, b: Form, inner: float, sizes: Sizes) -> float:
    """The expectation of xᵀMx · yᵀM'y."""
    same, first, second = a.diagonal @ b.diagonal, 2 * (b.diagonal @ a.rows), 2 * (a.diagonal @ b.rows)
    chained = 4 * (a.rows @ b.rows - inner)
    traces, sums = (a.diagonal.sum(), b.diagonal.sum()), (a.rows.sum(), b.rows.sum())
    # by how many different indices both have in common, and how many are of x and of y alone
    by_agreement = {
        (1, 0, 0): same,
        (0, 1, 1): traces[0] * traces[1] - same,
        (1, 1, 0): first,
        (0, 2, 1): sums[0] * traces[1] - first,
        (1, 0, 1): second,
        (0, 1, 2): traces[0] * sums[1] - second,
        (2, 0, 0): 2 * inner,
        (1, 1, 1): chained,
        (0, 2, 2): sums[0] * sums[1] - chained - 2 * inner,
    }
    return float(sum(value * _chance(sizes, *indices) for indices, value in by_agreement.items()))


def _chance(sizes: Sizes, both: int, first: int, second: int) -> float:
    """That so many given neurons lie in both sets, so many others in the first, and so many others in the second."""
    ways = sum(
        math.comb(first, s)
        * _in_order(sizes.shared - both, s)
        * _in_order(sizes.first - sizes.shared, first - s)
        * _in_order(sizes.second - both - s, second)
        for s in range(first + 1)
    )
    everywhere = _in_order(sizes.layer, both + first + second)
    return _in_order(sizes.shared, both) * ways / everywhere if everywhere else 0.0


def _in_order(count: int, taken: int) -> int:
    """Ways of taking so many of `count` one after another."""
    return math.perm(count, taken) if count >= taken else 0
