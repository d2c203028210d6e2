"""Most memory that one step of a large model takes when it is run one layer at a time.

Makes a checkpoint of Pythia's shape (float16, sharded, random weights: every block holds the same numbers). Runs `rtdyn
track --stream-layers always` on it in a process of its own. Prints what the operating system counted as that process's
largest resident set. The bundled suite's tokenizer and counts stand in for Pythia's, whose further types are padding.
`--folder` needs room for the weights: 24 GB for 12b, 3 GB for 1.4b.

    python scripts/benchmarks/layer_memory.py --shape 1.4b
    python scripts/benchmarks/layer_memory.py --shape 12b --tokens 4096 --positions-per-rare 100
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pythia_config import pythia_config

SHAPES = {"70m": (6, 512, 8, 50304), "1.4b": (24, 2048, 16, 50304), "12b": (36, 5120, 40, 50688)}
"""Layers, width, heads and vocabulary rows, from the models' configs; the MLPs are four times as wide."""
SHARD_BYTES = 2 * 2**30


def config(shape: str) -> dict[str, object]:
    return pythia_config(*SHAPES[shape])


def make_suite(folder: Path, shape: str) -> None:
    """A suite of one step of this shape in `folder`."""
    import torch
    from safetensors.torch import save_file
    from torch import Tensor

    import rtdyn

    layers, width, _, rows = SHAPES[shape]
    step = folder / "step0"
    step.mkdir(parents=True)
    tiny = Path(rtdyn.__file__).parent / "data" / "tiny"
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(tiny / name, folder)
    (step / "config.json").write_text(json.dumps(config(shape)))
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, sd: float = 0.02) -> Tensor:
        return torch.randn(*size, generator=generator).mul_(sd).half()

    def norm() -> dict[str, Tensor]:
        return {"weight": torch.ones(width).half(), "bias": torch.zeros(width).half()}

    def linear(inputs: int, outputs: int, sd: float = 0.02) -> dict[str, Tensor]:
        return {"weight": normal(outputs, inputs, sd=sd), "bias": torch.zeros(outputs).half()}

    written = 0.02 / (2 * layers) ** 0.5
    modules = {
        "input_layernorm": norm(),
        "post_attention_layernorm": norm(),
        "attention.query_key_value": linear(width, 3 * width),
        "attention.dense": linear(width, width, written),
        "mlp.dense_h_to_4h": linear(width, 4 * width),
        "mlp.dense_4h_to_h": linear(4 * width, width, written),
    }
    block = {f"{module}.{name}": t for module, own in modules.items() for name, t in own.items()}
    outside = {f"gpt_neox.final_layer_norm.{name}": t for name, t in norm().items()}
    parts = [{"gpt_neox.embed_in.weight": normal(rows, width)}]
    together = max(1, SHARD_BYTES // sum(t.nbytes for t in block.values()))
    numbers = range(layers)
    weight_map: dict[str, str] = {}

    def save(shard: dict[str, Tensor]) -> None:
        name = f"model-{len(set(weight_map.values())):05d}.safetensors"
        save_file(shard, step / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))

    save(parts.pop())
    for start in numbers[::together]:
        own = numbers[start : start + together]
        save({f"gpt_neox.layers.{i}.{name}": t.clone() for i in own for name, t in block.items()})
    save({**outside, "embed_out.weight": normal(rows, width)})
    (step / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds the command takes and the largest resident set of its process, GiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    # kilobytes on Linux, bytes on macOS; this process, whose own size a child inherits, never imports torch
    return time.perf_counter() - started, usage.ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="1.4b")
    parser.add_argument("--folder", type=Path, help="where the checkpoint goes, or lies; default: a temporary one")
    parser.add_argument("--analyses", default="ablation")
    parser.add_argument("--stream-layers", choices=["auto", "always", "never"], default="always")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--positions-per-rare", type=float, default=200.0)
    parser.add_argument("--min-targets", type=int, default=5)
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / f"pythia-{args.shape}-synthetic"
        if not folder.is_dir():
            making = multiprocessing.get_context("spawn").Process(target=make_suite, args=(folder, args.shape))
            making.start()
            making.join()
            if making.exitcode != 0:
                raise SystemExit("the checkpoint could not be made")
        options = {
            "--model": folder,
            "--out": Path(scratch) / "run",
            "--analyses": args.analyses,
            "--stream-layers": args.stream_layers,
            "--tokens": args.tokens,
            "--positions-per-rare": args.positions_per_rare,
            "--min-targets": args.min_targets,
            "--memory-gib": args.memory_gib,
            "--wandb": "disabled",
            "--device": "cpu",
        }
        words = [str(word) for pair in options.items() for word in pair]
        seconds, peak = measure([sys.executable, "-m", "rtdyn.cli", "track", *words])
        stored = sum(file.stat().st_size for file in folder.glob("step0/*.safetensors"))
    result = {
        "shape": args.shape,
        "stored_gib": stored / 2**30,
        "analyses": args.analyses,
        "stream_layers": args.stream_layers,
        "tokens": args.tokens,
        "memory_gib": args.memory_gib,
        "seconds": seconds,
        "peak_gib": peak,
    }
    if args.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:14} {value:.2f}" if isinstance(value, float) else f"{key:14} {value}")


if __name__ == "__main__":
    main()
