"""Time the total effect of a layer's neurons against a hook on the whole model and one forward pass, and calibrate it.

    python scripts/benchmarks/bench_layers.py --model tiny --tokens 4096 --layers=-2,-3

The hook runs the whole model again for each of a few neurons and is scaled to all neurons of the layers. Ours measures
them by `measure_layers` with its own numbers of neurons, or those given. Every eighth position is measured, about as
many as a run measures. All run on the same tokens in one process, and are timed in processor seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from bench_ablation import forward, load, measured, one_class
from torch import nn

from rtdyn.analyses.earlier_layers.calibration import Sampled
from rtdyn.analyses.earlier_layers.chosen import earlier_layers, normal_layers
from rtdyn.analyses.earlier_layers.layer import Layer, measure_layers
from rtdyn.analyses.earlier_layers.sample import RERUNS, budget_of
from rtdyn.analyses.options import StepOptions
from rtdyn.capture.earlier_layers import EarlierLayers, capture_earlier
from rtdyn.capture.forward_pass import capture
from rtdyn.model.families import anatomy
from rtdyn.names import RARE
from rtdyn.text.windows import EvaluationSet

EVERY = 8
"""Kept positions to one that is measured."""


def hook_seconds(model: Any, text: EvaluationSet, earlier: EarlierLayers, neurons: int) -> float:
    """A forward pass with its losses for each of so many neurons of each layer, scaled to all."""
    total = 0.0
    for layer, captured in earlier.layers.items():
        began = time.process_time()
        for neuron in range(neurons):

            def ablate(_: nn.Module, inputs: tuple[torch.Tensor, ...], layer: int = layer, neuron: int = neuron) -> Any:
                activations = inputs[0].clone()
                activations[..., neuron] = earlier.layers[layer].moments.mean[neuron]
                return (activations,)

            handle = anatomy(model).mlp_outputs[layer].module.register_forward_pre_hook(ablate)
            forward(model, text)
            handle.remove()
        total += (time.process_time() - began) / neurons * captured.activations.shape[1]
    return total


def calibration(result: Layer) -> dict[str, Any]:
    """What the first order is worth on the one class, mean |Δ|."""
    c = result.classes[RARE]
    numbers = {
        "pearson": c.calibration_abs.pearson,
        "spearman": c.calibration_abs.spearman,
        "slope": c.calibration_abs.slope,
        "error_90": c.calibration_abs.error,
        "direct_share": c.direct_share,
        "missed_share": c.missed_share,
    }
    return {
        name: [number.value, number.low, number.high] if isinstance(number, Sampled) else number.reason
        for name, number in numbers.items()
    }


def bench(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each side, and the calibration of each layer."""
    model, tokenizer = load(name)
    text, every = measured(tokenizer, args.tokens)
    positions = one_class(every.flat[::EVERY], every.target[::EVERY])
    layers = earlier_layers(normal_layers(args.layers), len(anatomy(model).stack))
    began = time.process_time()
    with torch.inference_mode():
        forward(model, text)
    forward_seconds = time.process_time() - began
    captured = capture(model, text, positions)
    budget = replace(budget_of(args.exact_neurons, captured.activations.shape[1]), reruns=args.reruns)
    began = time.process_time()
    earlier = capture_earlier(model, text, captured, layers)
    results = measure_layers(
        earlier,
        np.arange(len(text.windows)),
        rank_by="mean_abs",
        tolerance=1e-5,
        seed=0,
        memory_bytes=int(args.memory_gib * 2**30),
        budget=budget,
    )
    ours = time.process_time() - began
    with torch.inference_mode():
        hooks = hook_seconds(model, text, earlier, args.sample)
    return {
        "model": name,
        "tokens": int(text.windows.size),
        "targets": len(positions.flat),
        "neurons_a_layer": captured.activations.shape[1],
        "forward_seconds": forward_seconds,
        "hook_seconds": hooks,
        "our_seconds": ours,
        "our_forward_passes": ours / forward_seconds,
        "reruns": {layer: result.reruns for layer, result in results.items()},
        "calibration": {layer: calibration(result) for layer, result in results.items()},
    }


def main() -> None:
    """Prints an object, indented."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--tokens", type=int, default=4096, help="at least, but for those that are never measured")
    parser.add_argument("--layers", default="-2", help="numbers from the end, or all")
    parser.add_argument("--exact-neurons", type=int, default=StepOptions.exact_neurons)
    parser.add_argument("--reruns", type=float, default=RERUNS)
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--sample", type=int, default=4, help="neurons that the hook ablates")
    print(json.dumps(bench(parser.parse_args().model, parser.parse_args()), indent=1))


if __name__ == "__main__":
    main()
