"""The error of the mean activation ā in an influence's standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from rtdyn.analyses.influence.ablation import ClassInfluence, influence
from rtdyn.capture.forward_pass import Capture

NOWHERE = torch.full((2560,), -1)


def classes(one: Capture, cluster: np.ndarray | None = None) -> dict[str, ClassInfluence]:
    return influence(one, NOWHERE, 1, cluster=cluster).classes


def test_parts_of_the_mean_sum_to_nothing(captured: Callable[[int], Capture]) -> None:
    one = captured(4000)
    assert one.mean_parts is not None
    assert float(one.mean_parts.sum(0).abs().max()) < 1e-6 * float(one.moments.variance.sqrt().max())


def test_standard_errors_hold_what_a_shift_of_the_mean_does(captured: Callable[[int], Capture]) -> None:
    one = captured(4000)
    assert one.mean_parts is not None
    given, whole = classes(replace(one, mean_parts=None)), classes(one)
    # of a piece of text that alone shifts ā, the part of the variance is the square of what that changes
    shift = one.moments.variance.sqrt() * 1e-3
    up, down = (
        classes(replace(one, mean_parts=None, moments=replace(one.moments, mean=one.moments.mean + sign * shift)))
        for sign in (1, -1)
    )
    parts = torch.zeros(len(one.mean_parts) + 1, len(shift), dtype=torch.float64)
    parts[-1] = shift
    alone = classes(replace(one, mean_parts=parts), np.arange(len(parts)))
    for name in ("rare", "common"):
        expected = (up[name].mean_abs - down[name].mean_abs) / 2
        g = alone[name].clusters
        added = (alone[name].mean_abs_se ** 2 - given[name].mean_abs_se ** 2) * (g - 1) / g
        seen = expected.abs() > 0.02 * given[name].mean_abs_se
        torch.testing.assert_close(added[seen].sqrt(), expected[seen].abs(), rtol=0.1, atol=0.0)
        assert (whole[name].mean_abs_se / given[name].mean_abs_se).median() >= 1.0
