"""What earlier layers take, against closed forms and against the sample that is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtdyn.analyses.earlier_layers.sample import Budget, draw_sample
from rtdyn.capture.memory_need import Sample
from rtdyn.cost.layers import WHOLE_SHARE, blocks_operations, layer_operations, reruns
from rtdyn.cost.operations import ablation_operations, capture_operations
from rtdyn.model.sizes import ModelShape, model_shape
from rtdyn.suites.find import load_suites

GIB = 2**30
SAMPLE = Sample(tokens=4096, window=256, positions=512, assumed=None)
NOTHING = Budget(top=0, uniform=0, reruns=0.0)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return model_shape(dict(load_suites()["pythia-410m"].shape), "pythia-410m")


def test_all_blocks_at_all_positions_are_the_forward_pass_without_its_logits(shape: ModelShape) -> None:
    matrices, attention = blocks_operations(shape, SAMPLE, SAMPLE.tokens * shape.layers)
    logits = 2 * SAMPLE.tokens * shape.logits * shape.width
    assert matrices.float32 + attention.float32 + logits == pytest.approx(capture_operations(shape, SAMPLE).float32)


def test_a_rerun_pair_costs_a_window_through_the_blocks_above(shape: ModelShape) -> None:
    none, some, more = (
        layer_operations(shape, SAMPLE, (layer,), GIB, budget).float32
        for layer, budget in ((22, NOTHING), (22, Budget(0, 0, 4.0)), (20, Budget(0, 0, 4.0)))
    )
    pairs, block = 4 * shape.neurons, 256 * (2 * shape.matrices / 24 + 2 * 256 * 1024)
    before = 32 / 33  # of the window, up to the last of its targets
    last = before * 256 / 4 * 2 * shape.matrices / 24 + 32 / 256 * block
    types = (1 / 12 + WHOLE_SHARE) * shape.logits
    assert some - none == pytest.approx(pairs * (last + 2 * 32 * types * 1024))
    reach = (4 + 1) / (2 * 4)  # 32 targets of a window, 8 at a time
    backward = 2 * 512 * 256 * reach * (2 * shape.matrices / 24 + 2 * 4 * 256 * 1024)
    forward = 2 * 512 / 8 * 256 * reach * (2 * shape.matrices / 24 + 4 * 256 * 1024)
    once = 2 * 2 * 4096 * (2 * shape.matrices / 24 + 4 * 256 * 1024)
    assert more - some == pytest.approx(2 * pairs * before * block + backward + forward + once)
    both = layer_operations(shape, SAMPLE, (20, 22), GIB, NOTHING)
    assert both.float64 == 2 * ablation_operations(shape, SAMPLE, GIB).float64


def test_through_a_cap_losses_of_reruns_are_taken_from_all_types(shape: ModelShape) -> None:
    def logits(model: ModelShape) -> float:
        none, some = (
            layer_operations(model, SAMPLE, (22,), GIB, budget).float32 for budget in (NOTHING, Budget(0, 0, 4.0))
        )
        return some - none

    pairs, share = 4 * shape.neurons * 32, 1 / 12 + WHOLE_SHARE
    more = pairs * 2 * (1 - share) * shape.logits * shape.width
    assert logits(replace(shape, capped=True)) - logits(shape) == pytest.approx(more)


def test_the_expected_reruns_are_those_that_are_drawn() -> None:
    rng, budget = np.random.default_rng(0), Budget(top=30, uniform=40, reruns=3.0)
    size = rng.random((20, 100))  # even enough that no pair of probability 1 takes from the others
    drawn = [draw_sample(size, size.sum(0), budget, np.random.default_rng(s)).run_again.sum() for s in range(200)]
    assert np.mean(drawn) == pytest.approx(reruns(100, 20, budget), rel=0.02)
    assert reruns(100, 20, Budget(100, 0, 3.0)) == 2000
