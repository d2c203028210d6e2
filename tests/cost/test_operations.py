"""Operations and bytes of a step against closed forms, and against what the code itself allocates."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rtdyn.analyses.earlier_layers.reaching import captures_with_streams
from rtdyn.analyses.influence.block_sizes import block_sizes, sizes_of
from rtdyn.analyses.influence.certified import PAIR_BYTES
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import capture
from rtdyn.capture.memory_need import Sample, memory, sample_of
from rtdyn.checkpoints.checkpoint import load_model, read_config
from rtdyn.checkpoints.local import fetch_local
from rtdyn.cost.operations import (
    CAPPED_EXACT_SHARE,
    CAPPED_TERMS,
    EXACT_SHARE,
    Operations,
    ablation_operations,
    capture_operations,
    mediation_operations,
    run_bytes,
    total_operations,
)
from rtdyn.model.sizes import ModelShape, model_shape
from rtdyn.suites.find import load_suites
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation

GIB = 2**30
SAMPLE = Sample(tokens=4096, window=256, positions=512, assumed=None)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return model_shape(dict(load_suites()["pythia-410m"].shape), "pythia-410m")


def test_the_forward_pass_is_two_operations_a_weight_and_the_attention(shape: ModelShape) -> None:
    work = capture_operations(shape, SAMPLE)
    blocks = 2 * 12 * 24 * 1024**2
    attention = 24 * 2 * 2 * 256 * 1024
    assert work.float32 == work.flops == 4096 * (blocks + attention + 2 * 50304 * 1024)
    assert capture_operations(shape, replace(SAMPLE, tokens=8192)).flops == 2 * work.flops


def test_the_ablation_is_linear_in_positions_and_in_neurons_beside_the_vocabulary(shape: ModelShape) -> None:
    n, f, v, d = 512, 4096, 50304, 1024
    work = ablation_operations(shape, SAMPLE, 8 * GIB)
    assert sizes_of(n, f, v, d, 1, False, 8 * GIB, PAIR_BYTES).positions == n  # one block: q is computed once
    assert work.float64 == 2 * 2 * n * v * d + 2 * f * v * d + 12 * n * f * d
    assert work.float32 == 2 * n * v * d and work.narrow == 2 * n * f * v
    assert work.exact == EXACT_SHARE * n * f * v
    small = ablation_operations(shape, SAMPLE, GIB // 4)
    blocks = -(-n // sizes_of(n, f, v, d, 1, False, GIB // 4, PAIR_BYTES).positions)
    assert blocks > 1 and small.float64 - work.float64 == (blocks - 1) * 2 * f * v * d
    two = ablation_operations(replace(shape, directions=2), SAMPLE, 8 * GIB)
    assert two.float64 - work.float64 == 2 * n * v * d and two.float32 == 2 * work.float32


def test_the_blocks_are_those_of_the_analysis(captured) -> None:
    found = captured(4000)
    n, f = found.activations.shape
    v, d = found.anatomy.readout.unembedding.shape
    assert block_sizes(found, GIB // 16, PAIR_BYTES) == sizes_of(n, f, v, d, 1, False, GIB // 16, PAIR_BYTES)


def test_a_cap_on_the_logits_is_counted(captured, shape: ModelShape) -> None:
    n, f, v = 512, 4096, 50304
    capped = replace(shape, capped=True)
    work, plain = (ablation_operations(one, SAMPLE, 8 * GIB) for one in (capped, shape))
    assert work.narrow == 2 * plain.narrow
    assert work.exact == pytest.approx(CAPPED_TERMS * CAPPED_EXACT_SHARE * n * f * v)
    work, plain = (mediation_operations(one, SAMPLE, 8 * GIB) for one in (capped, shape))
    assert work.exact > 10 * plain.exact
    found = captured(4000)
    found = replace(found, anatomy=replace(found.anatomy, readout=replace(found.anatomy.readout, cap=30.0)))
    n, f = found.activations.shape
    v, d = found.anatomy.readout.unembedding.shape
    assert block_sizes(found, GIB // 16, PAIR_BYTES) == sizes_of(n, f, v, d, 1, True, GIB // 16, PAIR_BYTES)


def test_mediation_is_the_ablation_of_two_elevenths_of_the_positions_twice_and_more(shape: ModelShape) -> None:
    fewer = replace(SAMPLE, positions=round(SAMPLE.positions * 2 / 11))
    once, again = ablation_operations(shape, fewer, GIB // 2), mediation_operations(shape, SAMPLE, GIB)
    assert once.flops < again.flops < 4 * once.flops
    assert again.narrow == 2 * once.narrow and again.exact > 2 * once.exact
    assert again.flops < 1.5 * ablation_operations(shape, SAMPLE, GIB).flops


def test_work_adds_up() -> None:
    assert total_operations([]) == Operations()
    assert total_operations([Operations(1, 2, 3, 4, 5, 6), Operations(float64=1)]) == Operations(1, 3, 3, 4, 5, 6)


def test_memory_counts_the_arrays_of_a_capture(captured, tiny_folder) -> None:
    found = captured(4000)
    shape = model_shape(json.loads((tiny_folder / "step0" / "config.json").read_text()), "tiny")
    sample = Sample(13312, 256, len(found.residual), None)
    held = memory(shape, sample, GIB, routing=False, layered=False)
    assert held.capture == found.residual.nbytes + found.activations.nbytes
    assert held.weights == 4 * 901_344 and held.blocks == GIB and held.total > held.weights + held.capture + GIB
    attention = memory(shape, sample, GIB, routing=True, layered=False).capture - held.capture
    n, windows = len(found.residual), 52
    assert attention == 4 * (n * 2 * shape.heads * 256 + (13312 + n + windows) * shape.width)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_memory_counts_what_routing_keeps_of_earlier_layers(
    layers: tuple[int, ...], tiny: SuiteSpec, evaluation: Evaluation
) -> None:
    checkpoint = fetch_local(tiny, 4000)
    model, shape = load_model(checkpoint, "cpu"), model_shape(read_config(checkpoint.folder), "tiny")
    last = capture(model, evaluation.text, evaluation.positions)
    needed = [
        memory(shape, sample_of(evaluation), GIB, routing=routing, layered=False, earlier_layers=earlier).capture
        for routing, earlier in ((True, layers), (False, layers), (True, ()), (False, ()))
    ]
    kept = capture_earlier(model, evaluation.text, last, layers, attention=True)
    arrays = [a for c in kept.layers.values() for a in (c.attention, c.heads, c.first_heads) if a is not None]
    arrays += [] if kept.below is None or kept.below is kept.stream else [kept.below]
    arrays += [captured.stream for _, captured in captures_with_streams(kept)][-1:]
    assert needed[0] - needed[1] - needed[2] + needed[3] == sum(a.nbytes for a in arrays)


def test_layer_by_layer_one_block_or_the_vocabulary_is_held() -> None:
    shape = model_shape(dict(load_suites()["pythia-12b"].shape), "pythia-12b")
    rows = 50688 * 5120
    held = memory(shape, SAMPLE, GIB, routing=False, layered=True)
    assert held.weights == 4 * (shape.block + rows) < memory(shape, SAMPLE, GIB, routing=False, layered=False).weights
    assert memory(shape, SAMPLE, GIB, routing=True, layered=True).weights == 4 * (2 * shape.block + rows)


def test_a_run_directory_grows_with_steps_and_neurons(shape: ModelShape) -> None:
    assert run_bytes(shape, 10, ("ablation",)) == 10 * run_bytes(shape, 1, ("ablation",))
    assert run_bytes(shape, 1, ("heavytail",)) < run_bytes(shape, 1, ("ablation",))
    # as neurons/ of the bundled suite has them, with two classes
    assert run_bytes(shape, 1, ("ablation",), earlier=3) - run_bytes(shape, 1, ("ablation",)) == 3 * 227 * shape.neurons
