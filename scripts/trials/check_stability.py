"""Whether `rtdyn check` passes ten times in a row on an unchanged suite, on one thread and on two.

The bundled suite is run and held against a baseline of the first run: `--runs` times for each number of threads, a
process each. Prints the outcome of every check and the largest use any number made of its tolerance; ends with 1 if
a check failed. Ten runs on each of one and two threads take some 15 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rtdyn.judge.baseline import COLUMNS, baseline_of, read_baseline
from rtdyn.store.run import read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", default="0,512,4000")
    parser.add_argument("--analyses", default="ablation,regimes")
    parser.add_argument("--baseline", type=Path, help="a file to hold the runs against instead of the first run's")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        baseline = options.baseline or Path(folder) / "baseline.json"
        for number, threads in enumerate(t for t in options.threads for _ in range(options.runs)):
            out = Path(folder) / f"run{number}"
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            track = ("track", "--model", "tiny", "--steps", options.steps, "--analyses", options.analyses)
            rtdyn(environment, *track, "--wandb", "disabled", "--out", str(out)).check_returncode()
            update = () if baseline.exists() else ("--update",)
            done = rtdyn(environment, "check", str(out), "--baseline", str(baseline), *update)
            failed += done.returncode != 0
            print(f"{threads} threads, run {number + 1}: exit {done.returncode}, used {largest_use(out, baseline):.2g}")
            print("  " + done.stdout.strip().splitlines()[-1], flush=True)
    sys.exit(1 if failed else 0)


def rtdyn(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rtdyn.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def largest_use(run: Path, file: Path) -> float:
    """The largest share of its tolerance by which a number that both have has moved."""
    baseline = read_baseline(file)
    now = baseline_of(read_run(run), ()).rows
    largest = 0.0
    for step, rows in baseline.rows.items():
        for name, row in rows.items():
            for column in set(COLUMNS) & set(row) & set(now.get(step, {}).get(name, {})):
                rule = next(r for r in baseline.rules if r.covers(name, column, row))
                low, high = rule.range(row[column], row)
                moved = abs(now[step][name][column] - row[column])
                if moved:
                    largest = max(largest, moved / ((high - low) / 2) if high > low else float("inf"))
    return largest


if __name__ == "__main__":
    main()
