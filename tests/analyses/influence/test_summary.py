"""Summaries of influence and of the loss against the numbers they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from analyses.influence.test_ablation import synthetic

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.influence.losses import ALL, mean_losses
from rtdyn.analyses.influence.summary import summarise
from rtdyn.analyses.statistics import Estimate
from rtdyn.capture.forward_pass import Capture
from rtdyn.undefined import Undefined

NOWHERE = torch.full((30,), -1)


def test_summary_is_that_of_the_neurons_influence() -> None:
    result = influence(synthetic(seed=0, n=60, f=250), NOWHERE, 1)
    c, summary = result.classes["rare"], summarise(result)["rare"]
    assert isinstance(summary.mean, Estimate) and isinstance(summary.largest, Estimate)
    assert isinstance(summary.top_share, Estimate)
    values = c.mean_abs.numpy()
    assert summary.n == 60
    assert summary.mean.value == pytest.approx(values.mean())
    assert summary.largest.value == values.max()
    assert summary.top_share.value == pytest.approx(np.sort(values)[-3:].sum() / values.sum())
    assert summary.mean.low is not None and summary.mean.low < summary.mean.value
    signs = np.sign(c.mean.numpy())[(c.mean.abs() > 2 * c.mean_se + c.error_bound).numpy()]
    assert (summary.boosting, summary.suppressing) == ((signs > 0).sum(), (signs < 0).sum())
    assert summary.boosting + summary.suppressing > 0
    assert summary.error_bound == float(c.error_bound.max())


def test_neurons_without_influence_have_no_top_share() -> None:
    one = synthetic(seed=0)
    one = replace(one, anatomy=replace(one.anatomy, output_rows=torch.zeros_like(one.anatomy.output_rows)))
    summary = summarise(influence(one, NOWHERE, 1))["rare"]
    assert summary.mean == summary.largest == Estimate(0.0, 0.0, 0.0)
    assert summary.top_share == Undefined("every neuron's influence is 0")
    assert summary.boosting == summary.suppressing == 0


def test_losses_are_means_with_clustered_intervals(captured: Callable[[int], Capture]) -> None:
    one = captured(512)
    losses = mean_losses(one, 256)
    assert list(losses) == [ALL, *(c.name for c in one.positions.classes)]
    rare, members = losses["rare"], one.positions.members("rare")
    loss, windows = one.measured_loss[members].double().numpy(), one.positions.window[members]
    assert rare.n == len(loss) and rare.mean.value == pytest.approx(loss.mean())
    residuals = np.array([(loss[windows == w] - loss.mean()).sum() for w in np.unique(windows)])
    se = np.sqrt((residuals**2).sum() * len(residuals) / (len(residuals) - 1)) / len(loss)
    assert rare.mean.high == pytest.approx(loss.mean() + 1.96 * se, rel=1e-4)
    assert losses[ALL].n == len(one.loss) and losses[ALL].mean.value == pytest.approx(float(one.loss.double().mean()))
