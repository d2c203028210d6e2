"""Wall time of a sweep over a slow link against the longer of its downloads and its analyses, and its peak on the disk.

The bundled suite comes from a Hub on loopback. Its link carries so many bytes a second over all connections, with a
latency for each request. An analysis loads the weights and multiplies matrices for the rest of its time. The downloads
take as long as the analyses, 1.3 times as long, or 1/1.3.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from loopback.hub import LoopbackHub
from loopback.place import TINY, Machine, files_of, workplace

from rtdyn.suites.find import find_suite, load_suites

SWEEP = """
import json, sys, time
from pathlib import Path
import torch
from rtdyn.checkpoints.checkpoint import load_model
from rtdyn.checkpoints.stream import open_stream
from rtdyn.registry import load_suites

settings = json.loads(sys.argv[1])
suite = load_suites(Path(settings["suites"]))["bench"]
torch.set_num_threads(1)
matrix = torch.randn(256, 256)
import transformers.models.gpt_neox.modeling_gpt_neox

began, waited = time.perf_counter(), 0.0
with open_stream(suite, suite.steps, {}, settings["cache_gb"], False, lambda _: None) as stream:
    for step in stream.steps:
        asked = time.perf_counter()
        checkpoint = stream.take(step, lambda _: None)
        taken = time.perf_counter()
        waited += taken - asked
        load_model(checkpoint, "cpu")
        while time.perf_counter() < taken + settings["analysis"]:
            matrix @ matrix
        stream.release(step)
print(json.dumps({"wall": time.perf_counter() - began, "waited": waited}))
"""


def main() -> None:
    """Prints the ratios; exits with 1 if one is above the limit, or the disk above its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--analysis", type=float, default=2.0, help="seconds of each step's analysis")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds before each answer")
    parser.add_argument("--ahead", type=float, default=3.2, help="the budget, in checkpoints")
    parser.add_argument("--limit", type=float, default=1.15)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = [_measure(Path(name) / f"{ratio:.2f}", ratio, asked) for ratio in (1 / 1.3, 1.0, 1.3)]
    if asked.json:
        print(json.dumps(found))
    else:
        for row in found:
            print(", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    sys.exit(any(row["ratio"] > asked.limit or row["peak_bytes"] > row["budget_bytes"] for row in found))


def _measure(folder: Path, ratio: float, asked: argparse.Namespace) -> dict[str, Any]:
    """One sweep, whose downloads take `ratio` times as long as its analyses."""
    folder.mkdir()
    suite = find_suite("tiny", load_suites())
    sizes = [sum(f.stat().st_size for f in (TINY / suite.revision_of(step)).iterdir()) for step in suite.steps]
    compute = asked.analysis * len(sizes)
    bandwidth = sum(sizes) / (ratio * compute)
    with LoopbackHub(TINY, latency=asked.latency, bandwidth=bandwidth) as hub:
        place = workplace(folder, hub.url)
        suites = folder / "bench.yaml"
        suites.write_text(
            'suites: {bench: {repo: loopback/suite, revision: "step{step}", schedule: tiny}}', encoding="utf-8"
        )
        budget = asked.ahead * max(sizes)
        settings = {"suites": str(suites), "cache_gb": budget / 1e9, "analysis": asked.analysis}
        with Sampler(place) as sampler:
            done = place.python(["-c", SWEEP, json.dumps(settings)])
        if done.returncode:
            raise SystemExit(done.stderr)
    measured = json.loads(done.stdout)
    longer = max(compute, ratio * compute)
    return {
        "download_s": ratio * compute,
        "compute_s": compute,
        "wall_s": measured["wall"],
        "waited_s": measured["waited"],
        "ratio": measured["wall"] / longer,
        "peak_bytes": sampler.peak,
        "budget_bytes": int(budget),
    }


class Sampler:
    """The largest size of all that the stream keeps on the disk, looked at every 10 ms."""

    def __init__(self, place: Machine) -> None:
        self.place, self.peak = place, 0
        self.ended = threading.Event()

    def __enter__(self) -> Sampler:
        self.pool = ThreadPoolExecutor(1)
        self.looking = self.pool.submit(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.pool.shutdown()
        self.looking.result()

    def _look(self) -> None:
        while not self.ended.wait(0.01):
            self.peak = max(self.peak, sum(files_of(self.place).values()))


if __name__ == "__main__":
    main()
