"""Rows of losses and of influence, and the table of neurons: pieces of text, and signs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.influence.losses import ALL, mean_losses
from rtdyn.analyses.influence.signs import signs_of
from rtdyn.analyses.influence.summary import summarise
from rtdyn.analyses.regimes.curve import curve
from rtdyn.analyses.regimes.resampled import Resampled
from rtdyn.analyses.statistics import Estimate
from rtdyn.capture.forward_pass import Capture
from rtdyn.store.schema import metric_frame
from rtdyn.tables.influence import ablation_metrics, loss_metrics, neuron_table


def test_numbers_from_text_say_how_many_pieces_they_are_from(captured: Callable[[int], Capture]) -> None:
    one = captured(4000)
    cluster = np.arange(one.positions.window.max() + 1) // 3
    result = influence(one, torch.full((2560,), -1), 1, cluster=cluster)
    held = len(np.unique(cluster[one.positions.window[one.positions.members("rare")]]))
    losses = loss_metrics(mean_losses(one, 256, cluster))
    assert {row.token_class: row.clusters for row in losses}["rare"] == held
    assert {row.token_class for row in losses} == {ALL, *result.classes}
    summaries = summarise(result, 0)
    rows = ablation_metrics(summaries, result.refined_share, 2)
    metric_frame([*losses, *rows], 1, None)
    rare = {row.metric: row for row in rows if row.token_class == "rare"}
    for metric, estimate in (
        ("influence_mean", summaries["rare"].mean),
        ("influence_max", summaries["rare"].largest),
    ):
        row = rare[metric]
        assert isinstance(estimate, Estimate)
        assert (row.value, row.ci_low, row.ci_high, row.clusters) == (
            estimate.value, estimate.low, estimate.high, held,
        )  # fmt: skip
        assert row.ci_low is not None
    assert rare["boosting_neurons"].clusters is None
    found = curve(result.classes["rare"], "mean_abs", 0)
    table = neuron_table(4000, one, result, {"rare": found}, {})
    signs = signs_of(result.classes["rare"])
    assert table["sign_rare"].to_list() == signs.tolist() and set(signs.tolist()) <= {-1, 0, 1}
    assert rare["boosting_neurons"].value == (table["sign_rare"] == 1).sum()
    assert isinstance(found.resampled, Resampled)
    np.testing.assert_array_equal(table["stable_share"], found.resampled.stable_share)
