"""What earlier layers take, against closed forms and against the sample that is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtdyn.analyses.earlier_layers.sample import Budget, draw_sample
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.memory_need import Sample
from rtdyn.cost.layers import EAGER, WHOLE_SHARE, layer_operations, reruns, through_blocks
from rtdyn.cost.operations import ablation_operations, capture_operations, mediation_operations
from rtdyn.cost.plan import stage_operations
from rtdyn.model.sizes import ModelShape, model_shape
from rtdyn.suites.find import load_suites

GIB = 2**30
SAMPLE = Sample(tokens=4096, window=256, positions=512, assumed=None)
NOTHING = Budget(top=0, uniform=0, reruns=0.0)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return model_shape(dict(load_suites()["pythia-410m"].shape), "pythia-410m")


def test_all_blocks_at_all_positions_are_the_forward_pass_without_its_logits(shape: ModelShape) -> None:
    blocks = through_blocks(shape, SAMPLE.tokens * shape.layers, SAMPLE.window, EAGER)
    logits = 2 * SAMPLE.tokens * shape.logits * shape.width
    assert blocks.float32 + logits == pytest.approx(capture_operations(shape, SAMPLE).float32)


def of_reruns(model: ModelShape, layer: int) -> float:
    """Operations of a pair of neuron and window without its losses."""
    none, some = (layer_operations(model, SAMPLE, (layer,), GIB, b).float32 for b in (NOTHING, Budget(0, 0, 4.0)))
    types = (1 / 12 + WHOLE_SHARE) * model.logits
    return (some - none) / (4 * model.neurons) - 2 * 32 * types * model.width


def test_a_rerun_pair_costs_a_window_through_the_blocks_above_by_their_modules(shape: ModelShape) -> None:
    modules, d = replace(shape, plain=False), 1024
    block, before = 2 * 12 * d**2 + 4 * 128 * d, 32 / 33 * 256  # of a position, and up to the last of the targets
    alone = before * 2 * 3 * d**2 + 32 * block  # queries, keys and values, and all of it where it is measured
    assert of_reruns(modules, 22) == pytest.approx(alone)
    assert of_reruns(modules, 20) == pytest.approx(2 * before * block + alone)


def test_from_weights_alone_the_first_block_takes_no_product_for_what_it_reads(shape: ModelShape) -> None:
    d, before = 1024, 32 / 33 * 256
    block, attention = 2 * 12 * d**2 + 4 * 128 * d, 4 * 128 * d
    assert shape.plain and shape.parallel_residual
    entered = 2 * (1 + 4) * d**2 + attention  # what the heads give, and the neurons: no more where both read the stream
    assert of_reruns(shape, 22) == pytest.approx(32 * entered)
    keys = before * 2 * 2 * d**2
    assert of_reruns(shape, 21) == pytest.approx(before * entered + keys + 32 * block)
    assert of_reruns(shape, 20) == pytest.approx(before * (entered + block) + keys + 32 * block)
    sequential = replace(shape, parallel_residual=False)
    assert of_reruns(sequential, 22) == pytest.approx(32 * (entered + 2 * 4 * d**2))


def test_shared_keys_and_narrow_heads_are_counted_as_they_are(shape: ModelShape) -> None:
    d, q, kv = 1024, 1024 * 16 * 32, 2 * 1024 * 4 * 32
    matrices = shape.layers * (2 * q + kv + 2 * 4 * d**2)
    narrow = replace(shape, parallel_residual=False, head_size=32, heads=16, matrices=matrices)
    before, attention = 32 / 33 * 256, 4 * 128 * d
    entered = 2 * (q + 2 * 4 * d**2) + attention
    assert of_reruns(narrow, 22) == pytest.approx(32 * entered)
    block = entered + 2 * (q + kv)
    assert of_reruns(narrow, 21) == pytest.approx(before * entered + before * 2 * kv + 32 * block)


def test_first_orders_go_back_through_the_blocks_above_for_each_target(shape: ModelShape) -> None:
    d, seen = 1024, 256 * (4 + 1) / (2 * 4)  # 32 targets of a window, 8 at a time
    backward = 2 * 512 * seen * (2 * 12 * d**2 + 2 * 4 * seen * d)
    by_modules = 2 * 512 / 8 * seen * (2 * 12 * d**2 + 4 * seen * d)
    once = 2 * 4096 * (2 * 12 * d**2 + 4 * 256 * d)
    for plain, forward in ((False, by_modules), (True, once)):
        model = replace(shape, plain=plain)
        one, more = (layer_operations(model, SAMPLE, (layer,), GIB, NOTHING) for layer in (22, 20))
        assert more.float32 - one.float32 == pytest.approx(backward + forward + once)
    both = layer_operations(shape, SAMPLE, (20, 22), GIB, NOTHING)
    assert both.float64 == 2 * ablation_operations(shape, SAMPLE, GIB).float64


@pytest.mark.parametrize(("suite", "plain"), [("pythia-410m", True), ("alias-gpt2-small-x21", False)])
def test_windows_run_from_weights_alone_by_the_family_and_on_a_processor(suite: str, plain: bool) -> None:
    model = model_shape(dict(load_suites()[suite].shape), suite)
    assert model.plain == plain
    here, there = (
        stage_operations(model, SAMPLE, StepOptions(layers="-2", device=device)) for device in ("cpu", "cuda")
    )
    assert (here["layers"].float32 < there["layers"].float32) == plain
    assert (here["layers"].passed < there["layers"].passed) == plain
    assert here["layer mediation"] == mediation_operations(model, SAMPLE, StepOptions().memory_bytes)


def test_a_backward_pass_from_weights_alone_goes_through_fewer_arrays(shape: ModelShape) -> None:
    plain, modules = (layer_operations(replace(shape, plain=p), SAMPLE, (20,), GIB, NOTHING) for p in (True, False))
    assert plain.passed < 0.7 * modules.passed


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
