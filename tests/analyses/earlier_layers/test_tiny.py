"""The bundled suite's earlier layers, on some windows: against float64 hooks, and sampled against in full."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from rtdyn.analyses.earlier_layers.calibration import Sampled, calibrate
from rtdyn.analyses.earlier_layers.estimate import TextPieces, class_mean
from rtdyn.analyses.earlier_layers.sample import Budget, Sample, draw_sample
from rtdyn.analyses.earlier_layers.sums import exact_sums, first_order_sums, windows_of
from rtdyn.capture.earlier_layers import capture_earlier
from rtdyn.capture.forward_pass import capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.model.families import anatomy
from rtdyn.suites.suite import SuiteSpec
from rtdyn.text.evaluation import Evaluation
from rtdyn.text.positions import ClassPositions, MeasuredPositions

WINDOWS, NEURONS, REPEATS = 4, 512, 60


def first_windows(positions: MeasuredPositions) -> MeasuredPositions:
    """Those of the windows that come first, in one class."""
    some = np.flatnonzero(positions.window < np.unique(positions.window)[WINDOWS])
    flat = positions.flat[some]
    return replace(
        positions,
        flat=flat,
        window=positions.window[some],
        query=positions.query[some],
        target=positions.target[some],
        classes=(ClassPositions("rare", len(flat), flat),),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("step", "layer"), [(0, 1), (512, 0), (4000, 1)])  # the other three pass, too, and take longer
def test_a_sample_of_a_layer_says_what_all_of_it_does(
    tiny: SuiteSpec, evaluation: Evaluation, step: int, layer: int
) -> None:
    model, positions = load_model(fetch_local(tiny, step), "cpu"), first_windows(evaluation.positions)
    captured = capture(model, evaluation.text, positions)
    earlier = capture_earlier(model, evaluation.text, captured, (layer,))
    windows = windows_of(positions)
    first = first_order_sums(earlier, windows, 2**30)[layer]
    all_pairs = np.ones((len(windows), NEURONS), dtype=bool)
    exact = exact_sums(earlier, windows, {layer: all_pairs}, 2**30, seed=0)[layer]["rare"]
    n = len(positions.flat)

    whole = copy.deepcopy(model).double()
    mean = earlier.layers[layer].moments.mean
    ids = torch.from_numpy(evaluation.text.windows[[w.index for w in windows]].astype(np.int64))
    place = np.searchsorted([w.index for w in windows], positions.window)
    before = hooked(whole, ids, positions, place, layer, None, mean)
    for neuron in np.argsort(-exact.abs_sum.sum(0))[[0, 1, 10, 100, 400]]:
        delta = hooked(whole, ids, positions, place, layer, int(neuron), mean) - before
        assert exact.sum[:, neuron].sum() / n == pytest.approx(float(delta.mean()), abs=1e-6)
        assert exact.abs_sum[:, neuron].sum() / n == pytest.approx(float(delta.abs().mean()), abs=1e-6)

    text = TextPieces(np.array([len(w.rows) for w in windows]), np.arange(WINDOWS), np.zeros((WINDOWS, NEURONS)))
    of_rare = first.classes["rare"]
    for by_first, by_exact in ((of_rare.sum, exact.sum), (of_rare.abs_sum, exact.abs_sum)):
        truth, errors, covered, held = by_exact.sum(0) / n, [], [], []
        every = Sample(np.arange(0), np.arange(NEURONS), np.ones(first.size.shape), all_pairs)
        full = calibrate(by_first.sum(0) / n, truth, every)
        for seed in range(REPEATS):
            rng = np.random.default_rng(seed)
            sample = draw_sample(first.size, of_rare.abs_sum.sum(0), Budget(100, 200, 2.0), rng)
            known = np.where(sample.run_again, by_exact, np.nan)
            estimate = class_mean(by_first, known, of_rare.abs_sum, np.zeros(NEURONS), sample, text)
            left = ~sample.measured
            errors.append(float((estimate.value - truth)[left].mean()))
            covered.append(float((np.abs(estimate.value - truth) <= estimate.sample_error)[left].mean()))
            some = calibrate(by_first.sum(0) / n, np.where(sample.measured, truth, np.nan), sample)
            assert isinstance(some.spearman, Sampled) and isinstance(full.spearman, Sampled)
            assert some.spearman.low is not None and some.spearman.high is not None
            held.append(some.spearman.low <= full.spearman.value <= some.spearman.high)
        assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(REPEATS)
        assert 0.93 < np.mean(covered) < 0.97
        assert np.mean(held) > 0.93


def hooked(
    model: object,
    ids: torch.Tensor,
    positions: MeasuredPositions,
    place: np.ndarray,
    layer: int,
    neuron: int | None,
    mean: torch.Tensor,
) -> torch.Tensor:
    """float64 (N,): losses of the whole model with the neuron at its mean."""

    def ablate(_: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        activations = inputs[0].clone()
        if neuron is not None:
            activations[..., neuron] = mean[neuron]
        return (activations,)

    handle = anatomy(model).mlp_outputs[layer].module.register_forward_pre_hook(ablate)
    with torch.no_grad():
        logits = model(ids).logits[place, positions.query]  # type: ignore[operator]  # transformers' model
    handle.remove()
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(positions.target), reduction="none")
