"""Processor seconds of each stage of a step by the size of the final MLP, for `rtdyn plan`.

Those of `tiny` are in `rtdyn/data/stage_seconds.json`, beside those of `suite_cost.py` at 1.4b's shape.

Runs `rtdyn track` with one thread over two steps of each suite and takes the second, which pays no compilation. Its
clock is the processor's, not the wall's, so that other work on the machine counts little. The suites are `tiny` (steps
512 and 4000), and untrained GPT-NeoX models of two layers with `tiny`'s tokenizer and counts. Their MLP is four times
as wide as the stream. Prints a JSON object a suite.

    python scripts/benchmarks/stage_seconds.py --neurons 512 1024 2048 4096
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HEAD_SIZE = 64
ONE_THREAD = {
    **os.environ,
    **dict.fromkeys((f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")), "1"),
}
TRACK = "import time; time.perf_counter = time.process_time; from rtdyn.cli import main; main()"


def make_suite(folder: Path, neurons: int) -> None:
    """A suite of two steps of random weights, `neurons` wide in the MLP."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    import rtdyn

    tiny = Path(rtdyn.__file__).parent / "data" / "tiny"
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "token_counts.npy"):
        shutil.copy(tiny / name, folder)
    config = GPTNeoXConfig(
        vocab_size=2560,
        hidden_size=neurons // 4,
        intermediate_size=neurons,
        num_hidden_layers=2,
        num_attention_heads=max(2, neurons // 4 // HEAD_SIZE),
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    for step in (0, 1):
        torch.manual_seed(step)
        GPTNeoXForCausalLM(config).save_pretrained(folder / f"step{step}")


def seconds_by_stage(model: str, steps: str, run: Path) -> dict[str, float]:
    """The processor seconds of the last of the steps."""
    command = [sys.executable, "-c", TRACK, "track", "--model", model, "--steps", steps, "--out", str(run)]
    command += ["--corpus", "king-james-held-out", "--wandb", "disabled"]
    subprocess.run(command, check=True, stdout=sys.stderr, env=ONE_THREAD)
    seconds: dict[str, float] = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, nargs="*", default=[1024, 2048, 4096])
    parser.add_argument("--tiny", action="store_true", help="the bundled suite too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if asked.tiny:
            found = seconds_by_stage("tiny", "512,4000", Path(place) / "tiny")
            print(json.dumps({"suite": "tiny", "neurons": 512, "seconds": found}), flush=True)
        for neurons in asked.neurons:
            suite = Path(place) / f"suite-{neurons}"
            make_suite(suite, neurons)
            found = seconds_by_stage(str(suite), "0,1", Path(place) / f"run-{neurons}")
            print(json.dumps({"suite": "untrained", "neurons": neurons, "seconds": found}), flush=True)


if __name__ == "__main__":
    main()
