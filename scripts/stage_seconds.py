"""Seconds of each stage of a step at several sizes of the final MLP: where `rtdyn plan` has its further analyses from.

Makes untrained GPT-NeoX models of two layers, whose MLP is four times as wide as the stream, with the bundled suite's
tokenizer and counts, and runs `rtdyn track` twice over each (two steps of other weights), so that the second step
pays no compilation. Prints a JSON object a size: the second step's seconds by stage.

    python scripts/stage_seconds.py --neurons 512 1024 2048 4096
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HEAD_SIZE = 64


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    asked = parser.parse_args()
    for neurons in asked.neurons:
        with tempfile.TemporaryDirectory() as place:
            suite, run = Path(place) / "suite", Path(place) / "run"
            make_suite(suite, neurons)
            command = [sys.executable, "-m", "rtdyn.cli", "track", "--model", str(suite), "--out", str(run)]
            command += ["--corpus", "king-james-held-out", "--wandb", "disabled"]
            subprocess.run(command, check=True, stdout=sys.stderr)
            lines = (run / "log.jsonl").read_text().splitlines()
            print(json.dumps({"neurons": neurons, "seconds": json.loads(lines[-1])["seconds"]}), flush=True)


if __name__ == "__main__":
    main()
