"""Kills at random moments: driver, worker, slurmd or Ray node; the same command again must come to the serial tables.

Each trial draws one or two kills and their moments, and runs four steps of the bundled suite. The cluster is a Slurm or
a Ray one of two nodes on loopback. The driver is started again whenever it was killed. Nothing may be lost or doubled:
tables equal to those of a serial run, a line in the log for each step, no unfinished file. Needs the extras slurm and
ray.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from loopback import ray_nodes, slurm
from loopback.sweeps import STEPS, TINY, Sweep, logged, same_tables

VICTIMS = ("driver", "worker", "node")
LATEST, AWAY, PATIENCE = 30.0, 8.0, 400.0
"""Seconds: of the last kill, that a killed driver or node stays away at most, and that a trial may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", default="slurm,ray")
    arguments = parser.parse_args()
    engines = arguments.engines.split(",")
    for name, reason in (("slurm", slurm.why_not()), ("ray", ray_nodes.why_not())):
        if name in engines and reason is not None:
            raise SystemExit(reason)
    faults = 0
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trials-")))
        serial = Sweep(place / "serial", TINY, {})
        assert serial.run().returncode == 0
        print("trial  engine  kills                                   commands  seconds  outcome", flush=True)
        for engine in engines:
            options, environment, kill_node, start_node = _start(engine, stack)
            for trial in range(engines.index(engine), arguments.trials, len(engines)):
                rng = random.Random(f"{arguments.seed}-{trial}")
                sweep = Sweep(place / f"{engine}-{trial}", (*TINY, "--executor", engine, *options), environment)
                began = time.monotonic()
                kills, commands, outcome = _trial(sweep, rng, kill_node, start_node)
                outcome = outcome or _compare(sweep, serial.out)
                faults += outcome != "equal"
                seconds = time.monotonic() - began
                print(f"{trial:5}  {engine:6}  {kills:38}  {commands:8}  {seconds:7.0f}  {outcome}", flush=True)
    print(f"{arguments.trials - faults} of {arguments.trials} trials came to the serial tables")
    sys.exit(bool(faults))


def _start(
    engine: str, stack: ExitStack
) -> tuple[tuple[str, ...], dict[str, str], Callable[[], None], Callable[[], None]]:
    """Options and environment of the command, and how to kill a node and start it again."""
    if engine == "slurm":
        cluster = stack.enter_context(slurm.cluster())
        return (), dict(cluster.environment), lambda: cluster.kill_node("n2"), lambda: cluster.start_node("n2")
    nodes = stack.enter_context(ray_nodes.cluster())
    return ("--ray-address", nodes.address), {}, nodes.kill_second, nodes.start_second


def _trial(
    sweep: Sweep, rng: random.Random, kill_node: Callable[[], None], start_node: Callable[[], None]
) -> tuple[str, int, str | None]:
    """What was killed and when, how many commands it took, and what went wrong with them."""
    began = time.monotonic()
    due = sorted((rng.uniform(0.5, LATEST), rng.choice(VICTIMS)) for _ in range(rng.randint(1, 2)))
    back: list[tuple[float, str]] = []
    driver: subprocess.Popen[str] | None = sweep.start()
    commands, said = 1, []
    while True:
        now = time.monotonic() - began
        if due and now >= due[0][0]:
            _, victim = due.pop(0)
            pids = [record["pid"] for record in sweep.at_work().values()]
            if victim == "driver" and driver is not None:
                driver.kill()
                driver.communicate()
                driver = None
                back.append((now + rng.uniform(0, AWAY), victim))
                said.append(f"driver {now:.1f} s")
            elif victim == "worker" and pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
                said.append(f"worker {now:.1f} s")
            elif victim == "node" and not any(what == "node" for _, what in back):
                kill_node()
                back.append((now + rng.uniform(0, AWAY), victim))
                said.append(f"node {now:.1f} s")
            else:
                due = sorted([(now + 0.2, victim), *due])  # there is no such victim yet
        for at, what in [one for one in back if now >= one[0]]:
            back.remove((at, what))
            if what == "driver":
                driver, commands = sweep.start(), commands + 1
            else:
                start_node()
        if driver is not None and driver.poll() is not None:
            _, err = driver.communicate()
            for _ in (what for _, what in back if what == "node"):
                start_node()
            return ", ".join(said) or "none: it was done before", commands, _ended(driver.returncode, err)
        if now > PATIENCE:
            if driver is not None:
                driver.kill()
            return ", ".join(said), commands, f"not done after {PATIENCE:.0f} s"
        time.sleep(0.05)


def _ended(code: int, err: str) -> str | None:
    return None if code == 0 else f"ended with {code}: {err.strip().splitlines()[-1:]}"


def _compare(sweep: Sweep, serial: Path) -> str:
    try:
        same_tables(sweep.out, serial)
    except AssertionError as error:
        return f"other tables: {error}"
    if logged(sweep.out) != list(STEPS):
        return f"the log has {logged(sweep.out)}"
    left = [file.name for file in sweep.out.rglob("*.aside")]
    return f"left behind: {left}" if left else "equal"


if __name__ == "__main__":
    main()
