"""Two workers against one: wall time of the same steps on a Ray cluster of one and of two nodes, one thread each.

Steps are bound by computing: every pair of position and neuron is summed over the vocabulary (`--tolerance 0`). Each
worker has one task, of all or of half of the steps. The time is from the moment that all workers are at a step to the
last step stored. Starts of command, cluster and workers are left out. Both are timed in turn, `--rounds` times, and the
best of each counts. On two free cores the ratio should be near 2. How busy the machine's processors were meanwhile is
printed beside it. With other work on them, or with neighbours on a shared host, the ratio says little.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from loopback import ray_nodes
from loopback.sweeps import Sweep, same_tables

CPUS = {"one": 1, "two": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="0,1,2,4,8,16,32,64,128,256,512,4000", help="an even number")
    parser.add_argument("--tokens", default="38144")
    parser.add_argument("--analyses", default="ablation")
    parser.add_argument("--tolerance", default="0")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    reason = ray_nodes.why_not()
    if reason is not None:
        raise SystemExit(reason)
    steps = arguments.steps.split(",")
    measured = ["--tokens", arguments.tokens, "--analyses", arguments.analyses, "--tolerance", arguments.tolerance]
    measured += ["--positions-per-rare", "10"]
    seconds = dict.fromkeys(CPUS, float("inf"))
    with tempfile.TemporaryDirectory(prefix="bench-") as place, ray_nodes.cluster() as nodes:
        for turn, name in enumerate(list(CPUS) * arguments.rounds):
            if name == "one":
                nodes.kill_second()
            else:
                nodes.start_second()
            tasks = ["--executor", "ray", "--steps-per-task", str(len(steps) // CPUS[name])]
            where = ["--ray-address", nodes.address]
            command = ["--model", "tiny", "--steps", arguments.steps, *measured, *tasks, *where]
            sweep = Sweep(Path(place) / f"{name}{turn}", tuple(command), {})
            lasted, busy = _timed(sweep, CPUS[name])
            seconds[name] = min(seconds[name], lasted)
            print(
                f"{name} worker{'s' if name == 'two' else ''}: {lasted:.1f} s, processors {busy:.0%} busy", flush=True
            )
        same_tables(Path(place) / "one0", Path(place) / "two1")
    print(f"two workers are {seconds['one'] / seconds['two']:.2f} times as fast as one; the tables are equal")


def _timed(sweep: Sweep, workers: int) -> tuple[float, float]:
    """Seconds from the first step's begin to the last one's end, and the share of the processors in use meanwhile."""
    driver = sweep.start()
    while len(sweep.at_work()) < workers and driver.poll() is None:
        time.sleep(0.01)
    began, used = time.monotonic(), _used()
    driver_output = driver.communicate()
    if driver.returncode:
        raise SystemExit(driver_output[1])
    ended = max(file.stat().st_mtime for file in sweep.out.glob("*/step=*.parquet"))
    lasted = ended - (time.time() - (time.monotonic() - began))
    return lasted, (_used() - used) / (time.monotonic() - began) / (os.cpu_count() or 1)


def _used() -> float:
    """Processor seconds that the machine has spent so far, on anything."""
    user, nice, system, *_ = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
